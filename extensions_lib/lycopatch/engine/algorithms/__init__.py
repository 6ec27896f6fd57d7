"""What a layer's tensors mean: the table of algorithms. To add one, write its file and name its class here."""

from lycopatch.engine.algorithms.base import Algorithm
from lycopatch.engine.algorithms.boft import BOFT
from lycopatch.engine.algorithms.boft_input import InputBOFT
from lycopatch.engine.algorithms.full import Full
from lycopatch.engine.algorithms.glora import GLoRA
from lycopatch.engine.algorithms.hra import HRA
from lycopatch.engine.algorithms.ia3 import IA3, PeftIA3
from lycopatch.engine.algorithms.loha import LoHa
from lycopatch.engine.algorithms.lokr import LoKr
from lycopatch.engine.algorithms.lora import LoRA
from lycopatch.engine.algorithms.lora_embedding import LoRAEmbedding
from lycopatch.engine.algorithms.norm import Norm
from lycopatch.engine.algorithms.oft import DiagOFT, OFTDiag
from lycopatch.engine.algorithms.oft_input import InputOFT, OldPeftOFT
from lycopatch.engine.algorithms.set_weight import SetWeight
from lycopatch.engine.algorithms.tlora import TLoRA
from lycopatch.engine.algorithms.unsupported import FourierFT, PeftGLoRA, RandLoRA, SHiRA
from lycopatch.engine.algorithms.vera import VeRA

ALGORITHMS: tuple[type[Algorithm], ...] = (
    LoRA,
    LoRAEmbedding,
    LoHa,
    LoKr,
    GLoRA,
    IA3,
    PeftIA3,
    Full,
    Norm,
    DiagOFT,
    OFTDiag,
    BOFT,
    InputOFT,
    OldPeftOFT,
    InputBOFT,
    HRA,
    VeRA,
    TLoRA,
    SetWeight,
    FourierFT,
    RandLoRA,
    SHiRA,
    PeftGLoRA,
)
