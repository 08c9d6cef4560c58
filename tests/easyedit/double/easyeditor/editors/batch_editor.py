from enum import Enum


class BatchEditor(Enum):
    FT = "FT"
    MEMIT = "MEMIT"
    MEMIT_FE = "MEMIT-FE"
    EMMET = "EMMET"
    PMET = "PMET"

    @staticmethod
    def is_batchable_method(alg_name: str) -> bool:
        return alg_name in {member.value for member in BatchEditor}
