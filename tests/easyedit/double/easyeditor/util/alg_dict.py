from collections.abc import Callable
from typing import Any

from ..models.emmet.emmet_main import apply_emmet_to_model
from ..models.ft.ft_main import apply_ft_to_model
from ..models.memit.memit_main import apply_memit_to_model
from ..models.memit_FE.memit_FE_main import apply_memit_FE_to_model
from ..models.pmet.pmet_main import apply_pmet_to_model
from ..models.r_rome.r_rome_main import apply_r_rome_to_model
from ..models.rome.rome_main import apply_rome_to_model

ALG_DICT: dict[str, Callable[..., Any]] = {
    "ROME": apply_rome_to_model,
    "R-ROME": apply_r_rome_to_model,
    "MEMIT": apply_memit_to_model,
    "MEMIT-FE": apply_memit_FE_to_model,
    "FT": apply_ft_to_model,
    "EMMET": apply_emmet_to_model,
    "PMET": apply_pmet_to_model,
}
