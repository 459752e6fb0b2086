"""What models predict (eps, v, flow), compared before they are merged."""

from collections.abc import Sequence

import comfy.model_sampling

from ..plan import Plan
from ..report import letter

_PREDICTIONS = {
    comfy.model_sampling.EDM: "edm",
    comfy.model_sampling.V_PREDICTION: "v_prediction",
    comfy.model_sampling.V_PREDICTION_DDPM: "v_prediction_ddpm",
    comfy.model_sampling.CONST: "flow",
    comfy.model_sampling.X0: "x0",
    comfy.model_sampling.EPS: "eps",
}


def compare_prediction(plan: Plan, models: Sequence) -> None:
    """Warn where A and another model predict different things (eps, v): their weights do not mix."""
    patched = any("model_sampling" in model.object_patches for model in models)
    kinds = [_prediction(model) if patched else _model_type(model) for model in models]
    for number, kind in enumerate(kinds[1:], start=1):
        if kind != kinds[0]:
            plan.notes.warnings.append(
                f"A predicts {kinds[0]} and {letter(number)} {kind}. The merge samples as A."
            )


def _model_type(model) -> str:
    kind = getattr(model.model, "model_type", None)
    return getattr(kind, "name", str(kind)).lower()


def _prediction(model) -> str:
    """What a model predicts, also where ModelSamplingDiscrete or a similar node has changed it."""
    classes = type(model.get_model_object("model_sampling")).__mro__
    return next((_PREDICTIONS[kind] for kind in classes if kind in _PREDICTIONS), _model_type(model))
