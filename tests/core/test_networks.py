import pytest
import torch

from napari_dmsp.core.networks import DnCNN, UNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return UNet(3, (8, 16, 24), 1).double().eval()


@torch.no_grad()
def test_unet_is_scale_equivariant(net):
    x = torch.rand(2, 3, 24, 32, dtype=torch.float64)
    for scale in (0.01, 3.0, 40000.0):
        torch.testing.assert_close(
            net(scale * x, scale * 0.1), scale * net(x, 0.1), rtol=1e-9, atol=1e-12 * scale
        )


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8, 8), (17, 9), (31, 64)])
@torch.no_grad()
def test_unet_takes_any_size(net, shape):
    x = torch.rand(1, 3, *shape, dtype=torch.float64)
    result = net(x, 0.1)
    assert result.shape == x.shape
    assert torch.isfinite(result).all()


@torch.no_grad()
def test_unet_takes_one_level_per_image(net):
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    joint = net(x, torch.tensor([0.05, 0.2], dtype=torch.float64))
    single = torch.cat([net(x[:1], 0.05), net(x[1:], 0.2)])
    torch.testing.assert_close(joint, single)
    assert not torch.allclose(net(x, 0.05), net(x, 0.2))


@pytest.mark.parametrize("depth", [17, 20])
@torch.no_grad()
def test_dncnn_is_a_chain_of_convolutions(depth):
    net = DnCNN(1, depth, width=8)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == depth
    x = torch.rand(1, 1, 11, 13)
    assert net(x, 0.1).shape == x.shape


@torch.no_grad()
def test_training_configuration_matches_the_published_cost():
    # 2.35 million parameters, as stated in the documentation.
    assert sum(p.numel() for p in UNet(3).parameters()) == 2_351_664
