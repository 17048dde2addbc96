"""The U-Net: sizes, what its parts reach, where it attends, what it is told, and how precisely it computes."""

import copy

import pytest
import torch
from torch import nn

from genlab.config import parse
from genlab.errors import ConfigError
from genlab.nets.unet import UNet, UNetConfig, _Attention, time_features

SMALL = {
    "channels": 8,
    "multipliers": [1, 2, 3],
    "num_blocks": 1,
    "attention": [2],
    "num_heads": 2,
    "num_groups": 4,
}
SIZES = [(1, 1), (1, 5), (7, 7), (9, 8), (28, 28), (32, 32)]


def build(in_channels=1, out_channels=1, num_labels=0, shaken=True, **settings):
    """A small network, in ``eval()``; ``shaken``: nothing in it is zero any more."""
    torch.manual_seed(0)
    net = UNet(parse(UNetConfig, SMALL | {"dropout": 0.0} | settings), in_channels, out_channels, num_labels)
    if shaken:
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.2)
    return net.eval()


def inputs(n=3, channels=1, size=(8, 8), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, *size, generator=generator, dtype=dtype)
    return x, torch.linspace(0, 1, n, dtype=dtype)


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize("patch_size", [1, 2, 3])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (3, 6)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_of_any_size_come_out_at_that_size(size, in_channels, out_channels, patch_size):
    net = build(in_channels, out_channels, patch_size=patch_size)
    out = net(*inputs(2, in_channels, size))
    assert out.shape == (2, out_channels, *size)
    assert out.isfinite().all()
    assert out.std() > 0


def test_a_level_is_half_of_the_one_above_rounded_up():
    sizes = []
    net = build()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.register_forward_hook(lambda *args: sizes.append(tuple(args[2].shape[-2:])))
    net(*inputs(size=(9, 6)))
    assert sizes == [(5, 3), (3, 2)]


def test_pixels_from_below_are_repeated_and_cut_to_the_size_above():
    below, seen = build().levels.below, []
    below.level.register_forward_hook(lambda *args: seen.append(args[2]))
    below.enlarge.register_forward_hook(lambda *args: seen.append(args[1][0]))
    below(torch.randn(2, 8, 5, 6), torch.randn(2, 32))
    small, large = seen
    assert torch.equal(large, small.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5])


@pytest.mark.parametrize("size", [(1, 1), (9, 8)])
def test_it_says_nothing_at_first(size):
    out = build(num_labels=3, shaken=False)(*inputs(size=size), torch.arange(3))
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("patch_size", [1, 2])
def test_each_pixel_reaches_all_others_where_attention_is_at_the_bottom(patch_size):
    x, time = inputs(1, size=(9, 8))
    x.requires_grad_()
    out = build(patch_size=patch_size)(x, time)
    (reached,) = torch.autograd.grad(out[0, 0, 0, 0], x)
    assert (reached != 0).all()


def test_patches_of_two_by_two_cost_a_quarter():
    def multiplications(net):
        total = 0

        def count(module, args, out):
            nonlocal total
            total += module.weight.numel() * out.shape[-2:].numel()

        for module in net.levels.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        net(*inputs(1, size=(16, 16)))
        return total

    assert multiplications(build(patch_size=2)) * 4 == multiplications(build())


# ---------------------------------------------------------------------- what is used


@pytest.mark.parametrize("num_labels", [0, 3])
@pytest.mark.parametrize("attention", [[], [0, 1, 2]])
def test_every_parameter_is_reached_once_it_is_shaken(attention, num_labels):
    net = build(num_labels=num_labels, attention=attention)
    net(*inputs(), torch.arange(3) if num_labels else None).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_every_module_with_parameters_is_called_once():
    net, called = build(num_labels=3, num_blocks=2), []
    leaves = [m for m in net.modules() if not list(m.children()) and list(m.parameters())]
    for module in leaves:
        module.register_forward_hook(lambda module, *_: called.append(module))
    net(*inputs(), torch.arange(3))
    assert len(called) == len(leaves)
    assert set(called) == set(leaves)


def test_levels_have_the_blocks_and_the_planes_that_are_asked_for():
    """On the way down, at the bottom, and on the way up, where there is one more for what has come in."""
    net = build(num_blocks=2)
    planes = [m.leave[-1].out_channels for m in net.modules() if hasattr(m, "leave")]
    assert sorted(planes) == [8] * 5 + [16] * 5 + [24] * 7


@pytest.mark.parametrize("attention", [[], [0], [1], [0, 2]])
def test_attention_is_at_the_levels_that_are_asked_for(attention):
    """After each block on the way down and up, and after the first of the two at the bottom."""
    net, sizes = build(attention=attention, num_blocks=2), []
    for module in net.modules():
        if isinstance(module, _Attention):
            module.register_forward_hook(lambda *args: sizes.append(args[2].shape[-1]))
    net(*inputs(size=(16, 16)))
    expected = {16: 5 * (0 in attention), 8: 5 * (1 in attention), 4: 6 * (2 in attention)}
    assert {size: sizes.count(size) for size in expected} == expected


def test_attention_takes_no_notice_of_where_a_pixel_is():
    attention = build(attention=[0]).levels.down[0].attention
    x = torch.randn(2, 8, 3, 4)
    order = torch.randperm(12)
    shuffled = attention(x.flatten(2)[:, :, order].unflatten(2, (3, 4)))
    assert torch.allclose(shuffled.flatten(2), attention(x).flatten(2)[:, :, order], atol=1e-5)


def test_attention_is_a_softmax_of_scaled_products_in_each_head():
    attention = build(attention=[0]).levels.down[0].attention
    x = torch.randn(2, 8, 3, 4)
    rows = attention.norm(x).flatten(2).transpose(1, 2)
    q, k, v = attention.qkv(rows).chunk(3, dim=2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ v[..., head])
    expected = x + attention.out(torch.cat(heads, 2)).transpose(1, 2).view_as(x)
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_a_block_is_its_input_at_first_and_scaled_and_shifted_by_what_it_is_told():
    block = build(attention=[0], shaken=False).levels.down[0]
    x, told = torch.randn(2, 8, 3, 4), torch.randn(2, 32)
    assert torch.equal(block(x, told), x)
    nn.init.normal_(block.leave[-1].weight)
    with torch.no_grad():
        block.modulation.weight.zero_()
        block.modulation.bias.zero_()
    plain = block.leave[-1](nn.functional.silu(block.norm(block.enter(x))))
    assert torch.allclose(block(x, told), x + plain, atol=1e-5)
    with torch.no_grad():
        block.modulation.bias.fill_(1)
    moved = block.leave[-1](nn.functional.silu(2 * block.norm(block.enter(x)) + 1))
    assert torch.allclose(block(x, told), x + moved, atol=1e-5)


# ---------------------------------------------------------------------- what it is told


def test_blocks_on_the_way_up_take_in_what_there_was_on_the_way_down():
    level, made, taken = build(num_blocks=2).levels, [], []
    for block in level.down:
        block.register_forward_hook(lambda *args: made.append(args[2]))
    for block in level.up:
        block.register_forward_hook(lambda *args: taken.append(args[1][0]))
    x = torch.randn(2, 8, 6, 6)
    level(x, torch.randn(2, 32))
    for what, was in zip(taken, reversed([x, *made]), strict=True):
        assert torch.equal(what[:, -8:], was)


def test_time_and_label_matter_each_image_its_own():
    net = build(num_labels=3)
    x = inputs(1)[0].expand(4, -1, -1, -1)
    out = net(x, torch.tensor([0.2, 0.2, 0.2, 0.3]), torch.tensor([0, 0, 1, 0]))
    assert torch.allclose(out[0], out[1])
    assert not torch.allclose(out[0], out[2], atol=1e-2)
    assert not torch.allclose(out[0], out[3], atol=1e-2)


def test_images_of_a_batch_take_no_notice_of_each_other():
    net = build(num_labels=3)
    x, time = inputs()
    together = net(x, time, torch.arange(3))
    alone = torch.cat([net(x[i : i + 1], time[i : i + 1], torch.tensor([i])) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("dim", [1, 7, 32])
def test_features_tell_neighbouring_steps_of_a_thousand_apart(dim):
    features = time_features(torch.linspace(0, 1, 1001), dim)
    assert features.shape == (1001, dim)
    assert features.abs().max() <= 1
    assert (features.diff(dim=0).norm(dim=1) > 1e-3).float().mean() > 0.99
    assert torch.allclose(features[500, 0], torch.tensor(500.0).cos(), atol=1e-3)


def test_features_are_sines_and_cosines_of_periods_up_to_ten_thousand():
    time = torch.tensor([0.0, 0.001, 0.1])
    features = time_features(time, 8)
    angles = 1000 * time[:, None] * torch.tensor([1, 1e-1, 1e-2, 1e-3])
    assert torch.allclose(features, torch.cat([angles.cos(), angles.sin()], 1), atol=1e-5)


def test_dropout_is_in_training_alone():
    net = build(dropout=0.5)
    assert torch.equal(net(*inputs()), net(*inputs()))
    net.train()
    assert not torch.allclose(net(*inputs()), net(*inputs()))
    still = build(dropout=0.0).train()
    assert torch.equal(still(*inputs()), still(*inputs()))


# ---------------------------------------------------------------------- precision and layout


def test_float64_is_computed_in_float64():
    net = build(num_labels=3)
    double = copy.deepcopy(net).double()
    x, time = inputs(dtype=torch.float64)
    out = double(x, time, torch.arange(3))
    assert out.dtype == torch.float64
    assert torch.allclose(out.float(), net(x.float(), time.float(), torch.arange(3)), atol=1e-4)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(double(x, time, torch.arange(3)).sum(), x)
    small = 1e-7 * torch.randn_like(x)  # float32 anywhere would round it off
    with torch.no_grad():
        ahead, behind = (double(x + way * small, time, torch.arange(3)).sum() for way in (1, -1))
    assert ((ahead - behind) / 2).item() == pytest.approx((slope * small).sum().item(), rel=1e-5)


def test_bfloat16_is_near_float32_and_trains():
    net = build(num_labels=3).train()
    exact = net(*inputs(), torch.arange(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = net(*inputs(), torch.arange(3))
    assert (out.float() - exact).norm() < 0.03 * exact.norm()
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_channels_last_changes_nothing():
    net = build()
    x, time = inputs()
    expected = net(x, time)
    net = net.to(memory_format=torch.channels_last)
    assert torch.allclose(net(x.to(memory_format=torch.channels_last), time), expected, atol=1e-4)


def test_it_compiles_as_one_graph():
    net = build(num_labels=3, multipliers=[1, 2], attention=[1])
    expected = net(*inputs(), torch.arange(3))
    net.compile(fullgraph=True, backend="eager")  # which needs no compiler of C++
    assert torch.allclose(net(*inputs(), torch.arange(3)), expected, atol=1e-4)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": [3]}, "attention: there is no level 3 among 0 to 2"),
        ({"attention": [-1]}, "model.net.attention"),
        ({"num_groups": 3}, "num_groups=3 does not divide the 8 planes of level 0"),
        ({"num_groups": 16}, "num_groups=16 does not divide the 8 planes of level 0"),
        ({"num_heads": 5}, "num_heads=5 does not divide the 24 planes of level 2"),
        ({"multipliers": []}, "model.net.multipliers"),
        ({"patch_size": 0}, "model.net.patch_size"),
        ({"dropout": 1.0}, "model.net.dropout"),
        ({"num_blocks": 0}, "model.net.num_blocks"),
        ({"name": "vit"}, "model.net.name"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line_by_name(settings, message):
    with pytest.raises(ConfigError) as refused:
        parse(UNetConfig, SMALL | settings, "model.net")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_heads_need_divide_only_levels_with_attention():
    parse(UNetConfig, SMALL | {"num_heads": 16, "attention": [1]})
    parse(UNetConfig, SMALL | {"num_heads": 5, "attention": []})
