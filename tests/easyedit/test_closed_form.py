"""AlphaEdit's closed form inside the host's MEMIT."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.easyedit.conftest import (
    FLAG,
    LAYERS,
    Host,
    module_of,
    requests,
)


@pytest.mark.parametrize("mode", ["post", "solve"])
def test_a_batch_is_projected_in_either_mode(
    registered: ModuleType, any_host: Host, mode: str
) -> None:
    before = any_host.weights()
    any_host.run("MEMIT", 3, **FLAG, null_space_mode=mode)
    assert max(any_host.leaks(before)) < 1e-5


def test_the_closed_form_is_alphaedits(registered: ModuleType, any_host: Host) -> None:
    """The last layer's residual is what the host measured, its delta the published formula."""
    module, before = module_of("MEMIT"), any_host.weights()
    hparams = any_host.hparams("MEMIT")
    last = any_host.names()[-1]
    targets = torch.stack(
        [
            module.compute_z(any_host.model, any_host.tokenizer, r, hparams, LAYERS[-1], [["{}"]])
            for r in requests(2)
        ],
        dim=1,
    )
    any_host.run("MEMIT", 2, **FLAG)
    written = any_host.deltas(before)[last]
    with torch.no_grad():  # as in the loop: the first layer edited, the last not yet
        any_host.model.get_parameter(last).copy_(before[last])
    contexts = [["{}", "He said that. {}"]]
    any_host.tokenizer.padding_side = "right"
    keys = module.compute_ks(
        any_host.model, any_host.tokenizer, requests(2), hparams, LAYERS[-1], contexts
    ).T.double()
    now = module.get_module_input_output_at_words(
        any_host.model, any_host.tokenizer, LAYERS[-1],
        context_templates=[r["prompt"] for r in requests(2)],
        words=[r["subject"] for r in requests(2)],
        module_template=any_host.block, fact_token_strategy="last", track="out",
    ).T  # fmt: skip
    basis = any_host.used(last)
    null = torch.eye(len(basis)).double() - basis @ basis.T
    system = keys @ keys.T @ null + FLAG["null_space_l2"] * torch.eye(len(basis))
    expected = (targets - now).double() @ keys.T @ null @ torch.linalg.inv(system)
    assert (written - expected).norm() / expected.norm() < 1e-3
