"""Decoded images on disk, valid as long as the files they came from are unchanged."""

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from experiments.data.images import Images


class DecodedCache:
    """One safetensors file (no pickle, so reading it runs no code) that remembers what it was made from.

    Args:
        path: the cache file.
        files: the image files, in the order of the rows. Their names, sizes and modification times form the
            fingerprint that decides whether the cache still holds.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        digest = hashlib.sha256()
        for file in files:
            status = file.stat()
            name = file.relative_to(path.parent) if file.is_relative_to(path.parent) else file
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        self.fingerprint = digest.hexdigest()

    def read(self) -> Images | None:
        """The images, or None if there is no cache or the files have changed since."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = file.metadata() or {}
                if facts.get("fingerprint") != self.fingerprint:
                    return None
                return Images(file.get_tensor("pixels"), file.get_tensor("labels"), int(facts["classes"]))
        except (SafetensorError, OSError) as error:
            warnings.warn(f"the cache {self.path} is unreadable ({error}); decoding anew", stacklevel=2)
            return None

    def write(self, images: Images) -> None:
        """Writes the images in one move, so that a run beside this one never reads half a file.

        Raises:
            OSError: the folder cannot be written.
        """
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
        os.close(handle)
        try:
            facts = {"fingerprint": self.fingerprint, "classes": str(images.classes)}
            save_file({"pixels": images.pixels, "labels": images.labels}, name, metadata=facts)
            os.replace(name, self.path)
        except SafetensorError as error:  # what safetensors makes of a full disk
            os.unlink(name)
            raise OSError(str(error)) from error
        except BaseException:
            os.unlink(name)
            raise
