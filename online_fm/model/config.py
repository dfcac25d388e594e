"""What a model is: its kind, its optimizers, its bounds.

Defaults: the logistic part learns with FTRL as McMahan et al. (KDD 2013) ship it (alpha .1, beta 1); factors with
FTRL too, at a smaller step, from initial values of standard deviation `init_sd`: these only break the symmetry, and
larger ones cost log-loss.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["AdaGrad", "Ftrl", "ModelConfig", "check_size"]

FFM_BYTES_MAX = 1 << 28  # k = 4: 4,096 fields

Rate = Annotated[float, Meta(gt=0, le=1e3)]
Start = Annotated[float, Meta(ge=1e-12, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]


class Ftrl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="ftrl"):
    """FTRL-Proximal per coordinate: McMahan et al., KDD 2013, Algorithm 1.

    alpha: size of the steps; beta: how many unit gradients pass (as sqrt(n) against beta) before they shrink;
    l1: weights with |z| <= l1 are exactly 0; l2: as in the paper.
    """

    alpha: Rate = 0.1
    beta: NotNegative = 1.0
    l1: NotNegative = 0.0
    l2: NotNegative = 0.0


class AdaGrad(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="adagrad"):
    """AdaGrad per coordinate: Duchi et al., JMLR 2011, diagonal form.

    eta: size of the steps; a0: the squared gradients' sum starts there; l2: of the coordinates that a row touches.
    """

    eta: Rate = 0.1
    a0: Start = 1.0
    l2: NotNegative = 0.0


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model; every setting except `max_features` is part of what its parameters mean.

    k: factors of a feature (FM), or of a feature towards each field (FFM: then 4 is plenty); LR has none.
    seed, init_sd: the initial factors are a function of these and the feature, nothing else.
    max_features: bound of the table. 4 Mi features of FM with k=8 and FTRL are .5 GiB of records and .13 GiB of index.
    """

    kind: Literal["lr", "fm", "ffm"] = "fm"
    k: Annotated[int, Meta(ge=1, le=64)] = 8
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    init_sd: Annotated[float, Meta(ge=0, le=10)] = 0.03
    w: Ftrl | AdaGrad = Ftrl()
    v: Ftrl | AdaGrad = Ftrl(alpha=0.05)
    max_features: Annotated[int, Meta(ge=1, le=2**30)] = 2**22


def check_size(config: ModelConfig, n_fields: int) -> None:
    """Raise ValueError where an FFM has too many fields: each call works on n_fields^2 k float32 (`kernels.ffm`, T)."""
    size_bytes = 4 * n_fields**2 * config.k
    if config.kind == "ffm" and size_bytes > FFM_BYTES_MAX:
        needed_mib, most_mib = -(-size_bytes >> 20), FFM_BYTES_MAX >> 20
        raise ValueError(
            f"an FFM of {n_fields} fields and k = {config.k} needs {needed_mib} MiB a call (4 fields^2 k bytes), "
            f"and at most {most_mib} are taken: fewer fields, a smaller k, or kind fm"
        )
