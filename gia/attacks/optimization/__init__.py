"""Optimization-based attacks (OP-GIA): a search over pixels until their gradient matches."""

from gia.attacks.optimization.dlg import dlg
from gia.attacks.optimization.gradinversion import gradinversion
from gia.attacks.optimization.idlg import idlg
from gia.attacks.optimization.inverting_gradients import inverting_gradients

__all__ = ["dlg", "gradinversion", "idlg", "inverting_gradients"]
