"""Curves of a run's numbers: which share a panel."""

import pytest

from genlab.report import figures
from genlab.report.figures import loss_curves
from genlab.run_folder import RunFolder


@pytest.fixture
def curves(monkeypatch, tmp_path):
    """Draws the curves of numbers at the steps 1 and 2; the panels by title."""

    def draw(*names):
        folder = RunFolder(tmp_path)
        lines = [f"{step},1,{name},{step}" for step in (1, 2) for name in names]
        folder.metrics.write_text("\n".join(["step,epoch,name,value", *lines]) + "\n")
        drawn = []
        monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
        loss_curves(folder)
        return {axes.get_title(): axes for axes in drawn[0].axes}

    return draw


def _legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_term_has_a_panel_with_its_validation(curves):
    panels = curves("train/loss", "train/kl", "val/loss", "lr")
    assert {title: _legend(axes) for title, axes in panels.items()} == {
        "loss": ["train", "val"],
        "kl": ["train"],
    }


def test_terms_that_belong_together_share_a_panel(curves):
    groups, opinions = ("generator", "discriminator"), ("d_real", "d_fake")
    terms = [*(f"{name}_{group}" for name in ("loss", "grad_norm") for group in groups), *opinions]
    panels = curves(*(f"train/{term}" for term in terms), "val/d_real", "val/d_fake", "train/gradient_penalty")
    assert {title: _legend(axes) for title, axes in panels.items()} == {
        "loss": list(groups),
        "grad_norm": list(groups),
        "D": ["D(x)", "D(G(z))", "val"],
        "gradient_penalty": ["train"],
    }
    train, val, *_ = panels["D"].get_lines()
    assert train.get_color() == val.get_color()
    assert (train.get_linestyle(), val.get_linestyle()) == ("-", "--")


def test_a_term_with_a_shared_prefix_and_no_company_is_shown_as_any_other(curves):
    panels = curves("train/loss_model", "val/loss_model")
    assert _legend(panels["loss_model"]) == ["train", "val"]


def test_the_fid_has_a_panel(curves):
    panels = curves("train/loss", "fid/fashion_cnn", "fid/inception", "fid/inception/kid", "posterior/kl_max")
    assert panels.keys() == {"loss", "FID", "kid"}
    assert _legend(panels["FID"]) == ["fashion_cnn", "inception"]
    assert _legend(panels["kid"]) == ["inception"]
