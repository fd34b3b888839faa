"""Local contrast normalisation as the maxout authors did it to SVHN, whose preprocessing section 4.4 takes over.

The method is of Jarrett et al., "What is the best multi-stage architecture for object recognition?", ICCV 2009; the
constants and the order of the steps are those of pylearn2's LeCunLCN in 2013.
"""

import numpy as np
from numpy.typing import NDArray

KERNEL = 7  # the window's height and width
SIGMA = 2.0  # of the Gaussian in it, in pixels
LEAST = 1e-4  # no value is divided by less
BLOCK = 25  # images at a time: few enough that what is computed of them stays in a CPU's cache


def local_contrast_normalised(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract from every value the mean of its surroundings, and divide by their strength; [N, H, W, C] to the same.

    For every channel x of every image, with g a 7x7 Gaussian of sum 1 and * the convolution, zeros beyond the edges:

        v = x - x*g        d = sqrt(x^2 * g)        result = v / max(d, mean of d over the pixels, 1e-4)

    d is of x, where the article has v: so did pylearn2. And it normalised all three channels when the paper was
    written; its last version is a trap, for since January 2014 it returns from inside its loop over the channels,
    and leaves all but the first as they are.
    """
    result = np.empty_like(images)
    for start in range(0, len(images), BLOCK):
        x = images[start : start + BLOCK]
        strength = np.sqrt(_smoothed(x * x))
        floor = np.maximum(strength.mean(axis=(1, 2), keepdims=True), LEAST)
        np.divide(x - _smoothed(x), np.maximum(strength, floor), out=result[start : start + BLOCK])
    return result


def _smoothed(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The convolution with the Gaussian, which is separable: down the columns, then along the rows.

    Sums of shifted views: no slower than products with banded matrices, and without BLAS the result is the same on
    any number of threads.
    """
    count, height, width, channels = images.shape
    taps = np.exp(-(np.arange(KERNEL // 2 + 1) ** 2) / (2 * SIGMA**2))  # from the middle outwards
    taps = (taps / (taps[0] + 2 * taps[1:].sum())).astype(np.float32)
    x = images.reshape(count, height, width * channels)
    down = taps[0] * x
    for i in range(1, len(taps)):
        part = taps[i] * x
        down[:, i:] += part[:, :-i]
        down[:, :-i] += part[:, i:]
    result = taps[0] * down
    for i in range(1, len(taps)):
        part, shift = taps[i] * down, i * channels
        result[:, :, shift:] += part[:, :, :-shift]
        result[:, :, :-shift] += part[:, :, shift:]
    return result.reshape(images.shape)
