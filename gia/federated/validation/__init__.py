"""What a client checks before it trains on a model: values that no honest model reached (arXiv 2503.11514, Sec. VI).

`checking` has the functions that a client calls. They fill a `report`, by `limits`, from checks of a subject each:
`weights` (of the `layers` of a model), `statistics` and `agreement`.
"""

from gia.federated.validation.checking import LastAccepted, validate_model
from gia.federated.validation.limits import BY_DESIGN, Limits, complete_limits, default_limits, fit_limits
from gia.federated.validation.report import SENTENCES, Finding, ValidationReport

__all__ = [
    "BY_DESIGN",
    "SENTENCES",
    "Finding",
    "LastAccepted",
    "Limits",
    "ValidationReport",
    "complete_limits",
    "default_limits",
    "fit_limits",
    "validate_model",
]
