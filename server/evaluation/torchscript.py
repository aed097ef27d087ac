"""Features of a network that the user names, such as Inception's, in place of our classifier's.

Published feature networks come as TorchScript, which carries its own code: the Inception network
of 2015 by which FID is defined can be had so (NVIDIA's `inception-2015-12-05.pt`). Nothing is
downloaded here. A TorchScript file is a program and runs when it is loaded and called, though it is
not a pickle of Python's: name only files that you trust, and pin them by their hash.
"""

import hashlib
import re
import warnings
from pathlib import Path

import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from common.data import Splits
from common.errors import UserError
from server.evaluation.classifier import FeatureExtractor

KEY = "evaluation.features"
BATCH = 32  # of images that such networks enlarge to 299 x 299


class FileFeatures(FeatureExtractor):
    """Features of a TorchScript network; kinds are still our own classifier's.

    The network is given images (N, 3, H, W) as uint8, grey ones three times over, and enlarges them
    itself if it wants to. Where its `forward` takes `return_features`, that is set.

    Attributes:
        num_features: F, as the network gives them.
        digest: the first 12 hex digits of the file's SHA-256.
    """

    def __init__(self, splits: Splits, features: str) -> None:
        """Read the network that the key `evaluation.features` names and try it on two images.

        Raises:
            UserError: There is no such file, it is not what its hash or its name says, or the
                network does not make features of these images.
        """
        super().__init__(splits)
        self._path, self.digest, self._network = load_network(features)
        schema = self._network.forward.schema  # type: ignore[attr-defined]
        named = {argument.name for argument in schema.arguments}
        self._options = {"return_features": True} if "return_features" in named else {}
        self.num_features = self.features(torch.from_numpy(splits.train.values(slice(2)))).shape[1]

    @torch.no_grad()
    def features(self, images: Float32[Tensor, "N C H W"]) -> Float64[Tensor, "N F"]:
        """Features of images in [-1, 1], rounded to the 256 levels that such networks are for."""
        parts = [self._of(_bytes(batch)) for batch in images.split(BATCH)]
        return torch.cat(parts)

    def _of(self, batch: UInt8[Tensor, "B 3 H W"]) -> Tensor:
        try:
            found = self._network(batch, **self._options)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{KEY}: {self._path} fails on images {tuple(batch.shape)}: {last}"
            ) from None
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(batch):
            raise UserError(
                f"{KEY}: {self._path} gives {shape} for {len(batch)} images, no features"
            )
        return found.flatten(1).double()


def load_network(features: str) -> tuple[Path, str, torch.jit.ScriptModule]:
    """Return the path, digest and network of ``torchscript:FILE``, or ``torchscript:FILE#SHA256``.

    The hash may be shortened, to no less than six digits.

    Raises:
        UserError: The file cannot be read, has another hash, or is not TorchScript.
    """
    found = re.fullmatch(r"torchscript:(.+?)(?:#([0-9a-f]{6,64}))?", features)
    if found is None:
        raise UserError(f"{KEY}: write 'classifier' or 'torchscript:FILE', not {features!r}")
    path, pinned = Path(found[1]), found[2] or ""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{KEY}: {path} cannot be read ({error.strerror})") from None
    if not digest.startswith(pinned):
        raise UserError(f"{KEY}: the SHA-256 of {path} is {digest[:12]}…, not {pinned[:12]}")
    try:
        with warnings.catch_warnings():
            # torch would rather see torch.export, but it is TorchScript that has been published.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).partition(". ")[0].splitlines()[0]
        raise UserError(f"{KEY}: {path} is not a TorchScript file ({reason})") from None
    return path, digest[:12], network


def _bytes(images: Float32[Tensor, "B C H W"]) -> UInt8[Tensor, "B 3 H W"]:
    levels = ((images.cpu().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)
