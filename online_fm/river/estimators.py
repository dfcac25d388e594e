"""River's estimators over our learner: what its classes promise, and no arithmetic.

A class is a model, which settings it has, and a task, what it learns and answers. Settings are plain attributes, as
River's `clone` wants them; None stands for the model's own default. Predicting changes nothing: an unseen category
counts with its initial value, an unseen name not at all.

The optimizers can be changed while the model learns, whole or by a setting: `model.mutate({"w": {"eta": 0.05}})`. What
decides which state is kept beside a parameter stays: another kind of optimizer raises ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import base

from online_fm.errors import ConfigError
from online_fm.model.config import FactorOptimizer, Ffm, Fm, Fwfm, Lr, PairScales, Scales, WeightOptimizer
from online_fm.river.encode import Features
from online_fm.river.growing import GrowingLearner, Kind

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FFMClassifier",
    "FFMRegressor",
    "FMClassifier",
    "FMRegressor",
    "FwFMClassifier",
    "FwFMRegressor",
    "LRClassifier",
    "LRRegressor",
]

_OF_FIELDS = "separator", "max_fields"


class _Estimator(base.Estimator):
    """Settings, and the learner that they make."""

    _kind: ClassVar[type[Kind]]
    _loss: ClassVar[str]
    separator: str | None
    max_fields: int

    def _begin(self) -> None:
        self._learner = GrowingLearner(self._config(), self.separator, self.max_fields)

    def _config(self) -> Kind:
        """The model's configuration: what is None or True is left to its defaults, False is none of it."""
        given = {
            name: None if value is False else value
            for name, value in self._get_params().items()
            if name not in _OF_FIELDS and value is not None and value is not True
        }
        settings = {**msgspec.to_builtins(given), "kind": self._kind.__struct_config__.tag, "loss": self._loss}
        try:
            return msgspec.convert(settings, self._kind)
        except msgspec.ValidationError as exc:
            raise ConfigError(f"{type(self).__name__}: {exc}") from exc

    @property
    def features(self) -> int:
        """Features with parameters of their own."""
        return self._learner.features

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields so far, in the order of their numbers."""
        return self._learner.fields

    @property
    def field_scales(self) -> dict[str, dict[str, float]]:
        """How much each field counts: "w", and "v" where there are factors, -> field -> scale; empty without scales."""
        return self._learner.field_scales()

    @property
    def quarantined(self) -> int:
        """Examples whose update would not have been finite; they changed nothing."""
        return self._learner.quarantined

    @property
    def _mutable_attributes(self) -> set[str]:
        return {"w", "v"} & self._get_params().keys()

    def mutate(self, new_attrs: dict[str, Any]) -> None:
        """Change optimizers in place: {"w": Ftrl(alpha=0.05)}, or {"w": {"alpha": 0.05}} for one setting."""
        for name in new_attrs.keys() & self._mutable_attributes:
            old, new = getattr(self._learner.config, name), new_attrs[name]
            if isinstance(new, Mapping):
                new_attrs = {**new_attrs, name: type(old)(**{**msgspec.structs.asdict(old), **new})}
            elif type(new) is not type(old):
                raise ValueError(f"{name}: {new!r} needs another state than {old!r}: clone the model")
        before = {name: getattr(self, name, None) for name in new_attrs}
        super().mutate(new_attrs)
        if new_attrs:
            try:
                self._learner.retune(self._config())
            except ConfigError:
                super().mutate(before)
                raise

    @property
    def _raw_memory_usage(self) -> int:
        """Parameters, optimizer state and names: River's own count would follow the compiler's objects too."""
        return self._learner.nbytes


class _Classifier(_Estimator, base.MiniBatchClassifier):
    _loss = "log"

    def learn_one(self, x: Features, y: base.typing.ClfTarget, w: float = 1.0) -> None:
        """Learn that `x` was labelled `y` (True or False), with weight `w`."""
        self._learner.learn_one(x, _label(y), w)

    def predict_proba_one(self, x: Features, **_: object) -> dict[base.typing.ClfTarget, float]:
        """The probabilities of False and True."""
        p = float(self._learner.predict_one(x).p[0])
        return {False: 1.0 - p, True: p}

    def learn_many(self, X: pd.DataFrame, y: pd.Series, w: float | pd.Series = 1.0) -> None:  # noqa: N803
        """Learn the rows of a frame in their order, as `learn_one` would."""
        self._learner.learn_many(X, _labels(np.asarray(y)), np.broadcast_to(np.asarray(w), len(X)))

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """The probabilities of False and True, a row each."""
        import pandas as pd

        p = self._learner.predict_many(X).p.astype(np.float64)
        return pd.DataFrame({False: 1.0 - p, True: p}, index=X.index)


class _Regressor(_Estimator, base.MiniBatchRegressor):
    _loss = "squared"

    def learn_one(self, x: Features, y: base.typing.RegTarget, w: float = 1.0) -> None:
        """Learn that `x` went with the number `y`, with weight `w`."""
        self._learner.learn_one(x, float(y), w)

    def predict_one(self, x: Features) -> base.typing.RegTarget:
        """The number expected."""
        return float(self._learner.predict_one(x).p[0])

    def learn_many(self, X: pd.DataFrame, y: pd.Series, w: float | pd.Series = 1.0) -> None:  # noqa: N803
        """Learn the rows of a frame in their order, as `learn_one` would."""
        self._learner.learn_many(X, np.asarray(y, np.float64), np.broadcast_to(np.asarray(w), len(X)))

    def predict_many(self, X: pd.DataFrame) -> pd.Series:  # noqa: N803
        """The numbers expected."""
        import pandas as pd

        return pd.Series(self._learner.predict_many(X).p.astype(np.float64), index=X.index)


_NOT_BINARY = "labels are True or False (1 or 0); for more classes wrap the model in multiclass.OneVsRestClassifier"


def _label(y: object) -> float:
    if not isinstance(y, int | float | np.bool_ | np.number) or y not in {0, 1}:
        raise ValueError(_NOT_BINARY)
    return float(y)


def _labels(y: NDArray[Any]) -> NDArray[np.float64]:
    if y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all():
        raise ValueError(_NOT_BINARY)
    return y.astype(np.float64)


class _Lr(_Estimator):
    _kind = Lr

    def __init__(
        self,
        w: WeightOptimizer | None = None,
        scales: Scales | bool = True,
        separator: str | None = None,
        max_fields: int = 4096,
        max_features: int = 2**22,
    ) -> None:
        self.w, self.scales = w, scales
        self.separator, self.max_fields, self.max_features = separator, max_fields, max_features
        self._begin()


class _Fm(_Estimator):
    _kind = Fm

    def __init__(
        self,
        k: int = 8,
        w: WeightOptimizer | None = None,
        v: FactorOptimizer | None = None,
        scales: Scales | bool = True,
        init_sd: float | None = None,
        separator: str | None = None,
        max_fields: int = 4096,
        max_features: int = 2**22,
        seed: int = 1,
    ) -> None:
        self.k, self.w, self.v, self.scales, self.init_sd, self.seed = k, w, v, scales, init_sd, seed
        self.separator, self.max_fields, self.max_features = separator, max_fields, max_features
        self._begin()


class _Ffm(_Estimator):
    _kind = Ffm

    def __init__(
        self,
        k: int = 4,
        w: WeightOptimizer | None = None,
        v: FactorOptimizer | None = None,
        scales: Scales | bool = True,
        pairs: PairScales | bool = True,
        init_sd: float | None = None,
        separator: str | None = None,
        max_fields: int = 64,
        max_features: int = 2**22,
        seed: int = 1,
    ) -> None:
        self.k, self.w, self.v, self.scales, self.pairs, self.init_sd, self.seed = k, w, v, scales, pairs, init_sd, seed
        self.separator, self.max_fields, self.max_features = separator, max_fields, max_features
        self._begin()


class _Fwfm(_Estimator):
    _kind = Fwfm

    def __init__(
        self,
        k: int = 8,
        w: WeightOptimizer | None = None,
        v: FactorOptimizer | None = None,
        scales: Scales | bool = True,
        pairs: PairScales | None = None,
        init_sd: float | None = None,
        separator: str | None = None,
        max_fields: int = 256,
        max_features: int = 2**22,
        seed: int = 1,
    ) -> None:
        self.k, self.w, self.v, self.scales, self.pairs, self.init_sd, self.seed = k, w, v, scales, pairs, init_sd, seed
        self.separator, self.max_fields, self.max_features = separator, max_fields, max_features
        self._begin()


class LRClassifier(_Lr, _Classifier):
    """Logistic regression with learned scales per field. Parameters: see `FMClassifier`."""


class LRRegressor(_Lr, _Regressor):
    """Linear regression with learned scales per field. Parameters: see `FMClassifier`."""


class FMClassifier(_Fm, _Classifier):
    """Factorization machine for two classes (Rendle, ICDM 2010), with learned scales per field.

    Parameters
    ----------
    k
        Factors of a feature.
    w, v
        Optimizers of weights and factors, from `online_fm.model.config`. None: as shipped.
    scales
        Learn a scale per field: then learning rates need no tuning. `Scales(...)` has its settings.
    init_sd
        Standard deviation of initial factors. None: as shipped.
    separator
        Cuts names: what is before it is the field. None: each name is a field. "_" does what River's FFM does.
    max_fields
        Names beyond share a field.
    max_features
        Bound of the table; what comes later keeps its initial value.
    seed
        Initial factors are a function of this and the feature.

    """


class FMRegressor(_Fm, _Regressor):
    """Factorization machine for numbers, squared loss. Parameters: see `FMClassifier`."""


class FFMClassifier(_Ffm, _Classifier):
    """Field-aware factorization machine for two classes (Juan et al., RecSys 2016), with a scale per pair.

    A feature has `k` factors towards each field: keep fields few, by a `separator` where names are many. `pairs`: learn
    a scale per pair of fields; other parameters: see `FMClassifier`.
    """


class FFMRegressor(_Ffm, _Regressor):
    """Field-aware factorization machine for numbers, squared loss. Parameters: see `FFMClassifier`."""


class FwFMClassifier(_Fwfm, _Classifier):
    """Field-weighted factorization machine for two classes (Pan et al., WWW 2018). Parameters: see `FFMClassifier`."""


class FwFMRegressor(_Fwfm, _Regressor):
    """Field-weighted factorization machine for numbers, squared loss. Parameters: see `FFMClassifier`."""
