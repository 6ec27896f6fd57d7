"""Files → header, tensors, hashes: the third of the eight rooms of the engine."""

from lycopatch.engine.reading.file import TensorFile
from lycopatch.engine.reading.hashes import Hashes, file_hashes
from lycopatch.engine.reading.opening import open_tensor_file

__all__ = ["Hashes", "TensorFile", "file_hashes", "open_tensor_file"]
