"""gia measures what a gradient gives away: gradient inversion attacks in federated learning, and a harness for claims about them."""

from gia import federated, numerics
from gia.federated import LocalTraining, Observation, share_gradient, share_update

__all__ = ["LocalTraining", "Observation", "federated", "numerics", "share_gradient", "share_update"]
