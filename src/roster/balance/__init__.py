"""Balance: is the work spread? `(route, context) -> loss`, and/or a `bias_E` that `select` reads; one idea a file."""

from roster.balance.load_balancing import LoadBalancing
from roster.balance.loss_free import LossFreeBias
from roster.balance.z_loss import ZLoss

__all__ = ["LoadBalancing", "LossFreeBias", "ZLoss"]
