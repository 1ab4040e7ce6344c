"""What a set-up of federated learning leaks: the user's own model, local training and defenses under attack.

>>> import gia
>>> model = gia.models.build("mlp", num_classes=10, image_size=8, channels=1, width=16)
>>> report = gia.audit.audit(model, data="digits", image_size=8, batch_size=1, against="ana_linear")
>>> report.leak["ana_linear"] > 20  # the first layer sees the image, so it comes back whole
True
"""

from gia.audit.auditing import audit
from gia.audit.kinds import KINDS
from gia.audit.report import AuditReport, Leak, TooMuchLeaks, Validated, WhatIf

__all__ = ["KINDS", "AuditReport", "Leak", "TooMuchLeaks", "Validated", "WhatIf", "audit"]
