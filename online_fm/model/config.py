"""What a model is: its kind, its loss, how weights and factors learn, its bounds.

Each kind has one setting that is meant for all streams. What made that possible are the learned scales: a number per
field (`Scales`), and per pair of fields (`PairScales`), that multiplies its weights or factors and is learned too. A
field of many values then takes larger steps than one of thirty near-duplicates, useless fields become harmless, and the
step sizes below hardly matter any more: `benchmarks/quality.py` shows all three.

Which optimizer: AdaGrad and FTRL-Proximal do alike; AdaGrad is the quicker, FTRL can set weights to exactly 0. Kalman
keeps a variance for each coordinate: it is the best on long and on stationary streams, calibrated, and its scores come
with their uncertainty, which exploration needs. Adam and SGD are there to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "AdaGrad",
    "Adam",
    "Committee",
    "Ffm",
    "Fm",
    "Ftrl",
    "Fwfm",
    "Kalman",
    "KalmanFactors",
    "Loss",
    "Lr",
    "Member",
    "Mf",
    "ModelConfig",
    "PairScales",
    "Poly2",
    "Scales",
    "Sgd",
    "SingleConfig",
    "check_fields",
    "read_config",
]

FFM_BYTES_MAX = 1 << 28  # k = 4: 4,096 fields
PAIR_FIELDS_MAX = 300  # pairs of fields are fields themselves in poly2: 45,450 of 65,536
FWFM_FIELDS_MAX = 4096

Rate = Annotated[float, Meta(gt=0, le=1e3)]
Start = Annotated[float, Meta(ge=1e-12, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=0.5)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
Factors = Annotated[int, Meta(ge=1, le=64)]

Loss: TypeAlias = Literal["log", "squared", "hinge"]


class Ftrl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="ftrl"):
    """FTRL-Proximal per coordinate: McMahan et al., KDD 2013, Algorithm 1.

    alpha: size of the steps; beta: how many unit gradients pass (as sqrt(n) against beta) before they shrink;
    l1: weights with |z| <= l1 are exactly 0; l2: as in the paper; decay: the share of n that each touch forgets.
    """

    alpha: Rate = 0.1
    beta: NotNegative = 1.0
    l1: NotNegative = 0.0
    l2: NotNegative = 0.0
    decay: Share = 0.0


class AdaGrad(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="adagrad"):
    """AdaGrad per coordinate: Duchi et al., JMLR 2011, diagonal form.

    eta: size of the steps; a0: the squared gradients' sum starts there, and never falls below; l2: of the coordinates
    that a row touches; decay: the share of the sum that each touch forgets.
    """

    eta: Rate = 0.1
    a0: Start = 1.0
    l2: NotNegative = 0.0
    decay: Share = 0.0


class Adam(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="adam"):
    """Adam (Kingma & Ba, ICLR 2015), lazy: a coordinate's moments move only when it is touched."""

    eta: Rate = 0.01
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    eps: Annotated[float, Meta(ge=1e-12, le=1)] = 1e-8
    l2: NotNegative = 0.0


class Sgd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sgd"):
    """Stochastic gradient descent; the step is eta / (1 + decay t), t the coordinate's touches before (Bottou 2012)."""

    eta: Rate = 0.03
    decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
    l2: NotNegative = 0.0


class Kalman(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="kalman"):
    """A Gaussian posterior per weight: assumed-density filtering, the diagonal Kalman filter (`kernels.kalman`).

    prior: variance of a weight before it is seen; evidence: how many weights' worth that prior counts against what
    each field's own weights say of theirs (MacKay 1992), null leaves it as it is; q: forgetting per touch.
    """

    prior: Annotated[float, Meta(ge=1e-6, le=1e6)] = 0.1
    evidence: Annotated[float, Meta(gt=0, le=1e9)] | None = 1.0
    q: Share = 3e-5


class KalmanFactors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="kalman"):
    """As `Kalman`, for factors: their prior variance and forgetting per touch."""

    prior: Annotated[float, Meta(ge=1e-6, le=1e6)] = 0.05
    q: Share = 3e-5


WeightOptimizer: TypeAlias = Ftrl | AdaGrad | Kalman | Adam | Sgd
FactorOptimizer: TypeAlias = Ftrl | AdaGrad | KalmanFactors | Adam | Sgd


class Scales(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scale per field, tau for weights and rho for factors: start 1, learned by AdaGrad, never below the floor."""

    eta: Rate = 0.2
    a0: Start = 0.1
    floor: Annotated[float, Meta(ge=1e-3, le=1)] = 0.05


class PairScales(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scale per pair of fields, R, learned by AdaGrad."""

    start: Annotated[float, Meta(ge=-10, le=10)] = 0.5
    eta: Rate = 0.2
    a0: Start = 0.1


class _Linear(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all kinds have.

    loss: log for clicks, squared for ratings or times, hinge; w: how weights and the bias learn; scales: null switches
    the learned scales off; half_life_h: event time in which what was learned loses half its weight against what comes,
    null never; noise: variance of a label around its prediction, for the squared loss under Kalman;
    max_features: bound of the table.
    """

    loss: Loss = "log"
    w: WeightOptimizer = AdaGrad()
    scales: Scales | None = Scales()
    half_life_h: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    noise: Annotated[float, Meta(gt=0, le=1e12)] = 1.0
    max_features: Annotated[int, Meta(ge=1, le=2**30)] = 2**22

    @property
    def kind(self) -> str:
        """The tag, as a file has it."""
        return str(self.__struct_config__.tag)

    def __post_init__(self) -> None:
        if self.loss == "hinge" and isinstance(self.w, Kalman):
            raise ValueError("the hinge loss is no likelihood, which w of kind kalman needs")


class _Factors(_Linear, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the kinds with factors have.

    k: factors of a feature; seed, init_sd: the initial factors are a function of these and the feature, nothing else;
    v: how factors learn; v_needs_w: while a feature's weight is exactly 0 its factors are neither used nor learned
    (alphaFM's `force_v_sparse`), which needs FTRL with l1 for w.
    """

    k: Factors = 8
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    init_sd: Annotated[float, Meta(ge=0, le=10)] = 0.03
    v: FactorOptimizer = AdaGrad(eta=0.05, a0=0.4)
    v_needs_w: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss == "hinge" and isinstance(self.v, KalmanFactors):
            raise ValueError("the hinge loss is no likelihood, which v of kind kalman needs")
        if self.v_needs_w and not (isinstance(self.w, Ftrl) and self.w.l1 > 0):
            raise ValueError("v_needs_w: only FTRL with l1 for w has weights that are exactly 0")


class Lr(_Linear, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lr"):
    """Logistic regression (with another loss: linear)."""


class Poly2(_Linear, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="poly2"):
    """Logistic regression over the features and all their pairs, hashed (Chang et al., JMLR 2010)."""

    max_features: Annotated[int, Meta(ge=1, le=2**30)] = 2**25


class Mf(_Factors, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mf"):
    """Matrix factorization with biases (Koren et al., 2009): user and item name the two fields that it looks at."""

    user: str
    item: str


class Fm(_Factors, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fm"):
    """Factorization machine (Rendle, ICDM 2010)."""


class Fwfm(_Factors, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fwfm"):
    """Field-weighted FM (Pan et al., WWW 2018): an FM whose pairs have a learned weight by their fields."""

    v: FactorOptimizer = AdaGrad()
    pairs: PairScales = PairScales()


class Ffm(_Factors, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ffm"):
    """Field-aware FM (Juan et al., RecSys 2016): k factors towards each field; pairs: null leaves all pairs at 1."""

    k: Factors = 4
    v: FactorOptimizer = AdaGrad(a0=0.1)
    pairs: PairScales | None = PairScales()


SingleConfig: TypeAlias = Lr | Poly2 | Mf | Fm | Fwfm | Ffm


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One learner of a committee. mixed: false only watches it, beside the others, at weight 0."""

    model: SingleConfig
    mixed: bool = True


MemberName = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,32}$")]


class Committee(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="committee"):
    """Several learners over the same rows, mixed in the logit by exponentiated gradient (Kivinen & Warmuth 1997).

    rate: how quickly the members' weights follow what each is worth.
    """

    members: Annotated[dict[MemberName, Member], Meta(min_length=1, max_length=16)]
    rate: Annotated[float, Meta(gt=0, le=10)] = 0.02

    def __post_init__(self) -> None:
        if not any(member.mixed for member in self.members.values()):
            raise ValueError("members: at least one must be mixed")
        if len({member.model.loss for member in self.members.values()}) > 1:
            raise ValueError("members: all must have the same loss")

    @property
    def kind(self) -> str:
        """The tag, as a file has it."""
        return "committee"

    @property
    def loss(self) -> Loss:
        """The members' loss."""
        return next(iter(self.members.values())).model.loss

    @property
    def max_features(self) -> int:
        """Of all members together."""
        return sum(member.model.max_features for member in self.members.values())


ModelConfig: TypeAlias = Lr | Poly2 | Mf | Fm | Fwfm | Ffm | Committee


def check_fields(config: ModelConfig, fields: Sequence[str]) -> None:
    """Raise ValueError where a model cannot be over these fields: it names another one, or they are too many."""
    n = len(fields)
    if isinstance(config, Committee):
        for name, member in config.members.items():
            try:
                check_fields(member.model, fields)
            except ValueError as problem:
                raise ValueError(f"members.{name}: {problem}") from problem
    elif isinstance(config, Mf):
        for role, named in (("user", config.user), ("item", config.item)):
            if named not in fields:
                raise ValueError(f"{role}: there is no field '{named}'")
        if config.user == config.item:
            raise ValueError("user and item must be two fields")
    elif isinstance(config, Ffm):
        size_bytes = 4 * n**2 * config.k
        if size_bytes > FFM_BYTES_MAX:
            needed_mib, most_mib = -(-size_bytes >> 20), FFM_BYTES_MAX >> 20
            raise ValueError(
                f"an FFM of {n} fields and k = {config.k} needs {needed_mib} MiB a call (4 fields^2 k bytes, twice "
                f"that to learn), and at most {most_mib} are taken: fewer fields, a smaller k, or kind fm"
            )
    else:
        most = {Poly2: PAIR_FIELDS_MAX, Fwfm: FWFM_FIELDS_MAX}.get(type(config), n)
        if n > most:
            raise ValueError(f"{n} fields, and at most {most} are taken where pairs of fields are kept")


def read_config(model: Mapping[str, Any], file_format: int) -> ModelConfig:
    """The model that a manifest describes; before format 2 it had no scales, and settings that it did not use."""
    tree = dict(model)
    if file_format < 2:
        tree["scales"] = None
        if tree.get("kind") == "lr":
            tree = {name: value for name, value in tree.items() if name in Lr.__struct_fields__ or name == "kind"}
        if tree.get("kind") == "ffm":
            tree["pairs"] = None
    return msgspec.convert(tree, ModelConfig)  # type: ignore[no-any-return]
