import torch

from styleid_core.adain import adain


def test_takes_the_statistics_of_the_style_and_keeps_the_pattern():
    content, style = torch.randn(3, 4, 16, 24), 5 + 2 * torch.randn(1, 4, 9, 31)
    result = adain(content, style)
    torch.testing.assert_close(result.mean((2, 3)), style.mean((2, 3)).expand(3, 4))
    torch.testing.assert_close(result.std((2, 3)), style.std((2, 3)).expand(3, 4))
    for image in range(3):
        for channel in range(4):
            pair = torch.stack([content[image, channel].flatten(), result[image, channel].flatten()])
            assert torch.corrcoef(pair)[0, 1] > 0.9999


def test_strength_goes_from_the_content_to_the_full_result():
    content, style = torch.randn(1, 4, 8, 8), 3 * torch.randn(1, 4, 8, 8)
    assert torch.equal(adain(content, style, 0.0), content)
    torch.testing.assert_close(adain(content, style, 0.5), (content + adain(content, style)) / 2)


def test_the_content_aware_adain_of_attenst_is_the_strength():
    """arXiv 2503.07307: the statistics are mixed, alpha of the style's and 1 - alpha of the content's."""
    content, style, alpha = torch.randn(1, 4, 8, 8), 2 + 3 * torch.randn(1, 4, 9, 7), 0.6
    mean, style_mean = (x.mean((2, 3), keepdim=True) for x in (content, style))
    deviation, style_deviation = (x.std((2, 3), keepdim=True) for x in (content, style))
    mixed = (alpha * style_deviation
             + (1 - alpha) * deviation) * (content - mean) / deviation + alpha * style_mean + (1 - alpha) * mean
    torch.testing.assert_close(adain(content, style, alpha), mixed)


def test_each_content_meets_its_own_style_and_one_content_many_styles():
    content, style = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(adain(content, style)[1:], adain(content[1:], style[1:]))
    assert adain(content[:1], style).shape == (2, 4, 8, 8)


def test_a_constant_channel_takes_the_mean_of_the_style():
    style = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(adain(torch.full((1, 4, 8, 8), 0.5), style),
                               style.mean((2, 3), keepdim=True).expand(1, 4, 8, 8))


def test_masks_weigh_what_is_measured_and_what_changes():
    """Against statistics of the very values that a mask keeps; outside of it the content stays."""
    content, style = torch.randn(2, 4, 8, 8), 5 + 2 * torch.randn(1, 4, 6, 9)
    mask, style_mask = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 6, 9)
    mask[..., :5], style_mask[..., 2:4, :] = 1, 1
    result = adain(content, style, mask=mask, style_mask=style_mask)
    alone = adain(content[..., :5], style[..., 2:4, :])
    torch.testing.assert_close(result[..., :5], alone)
    assert torch.equal(result[..., 5:], content[..., 5:])


def test_a_gray_mask_counts_for_less():
    content, style = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    gray = torch.full((1, 1, 8, 8), 0.5)
    torch.testing.assert_close(adain(content, style, mask=gray, style_mask=gray), adain(content, style, 0.5))


def test_two_regions_take_their_own_colors():
    content, one, other = torch.randn(1, 4, 8, 8), 3 + torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8) - 3
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    result = adain(adain(content, one, mask=left), other, mask=1 - left)
    for half, style in ((result[..., :4], one), (result[..., 4:], other)):
        torch.testing.assert_close(half.mean((2, 3)), style.mean((2, 3)))
        torch.testing.assert_close(half.std((2, 3)), style.std((2, 3)))


def test_a_mask_that_leaves_nothing_changes_nothing():
    content, style = torch.randn(2, 4, 8, 8), torch.randn(1, 4, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[1] = 1
    result = adain(content, style, mask=mask)
    assert torch.equal(result[0], content[0])
    torch.testing.assert_close(result[1:], adain(content[1:], style))
