"""Statistics over the whole batch, also where a batch is spread over several processes."""

from pytorch_lightning.plugins import LayerSync
from torch import nn

from norms.synchronize import desynchronize_, synchronize_


class NormSync(LayerSync):
    """Pool the batch statistics of all norms over all processes while a trainer fits.

    It is for :class:`pytorch_lightning.Trainer` what :func:`norms.synchronize_` is for a model, and the place of
    ``sync_batchnorm=True``, which only knows ``torch.nn.BatchNorm`` and takes every class derived from it for one::

        Trainer(devices=2, strategy="ddp", plugins=[NormSync()])

    ``train.py`` uses it for ``trainer.sync_batchnorm: true``. After the fit the norms are as before, except that none
    is synchronized.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronize the norms of ``model``, in place."""
        return synchronize_(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Take the synchronization back, in place."""
        return desynchronize_(model)
