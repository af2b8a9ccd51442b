"""Predicting what was not evaluated from what was."""

from nas.predictors.encoding import EncodedArchitectures, SettingsEncoder, SpaceEncoder
from nas.predictors.few_label import FewLabelPredictor, Prediction, cross_validated

__all__ = [
    "EncodedArchitectures",
    "FewLabelPredictor",
    "Prediction",
    "SettingsEncoder",
    "SpaceEncoder",
    "cross_validated",
]
