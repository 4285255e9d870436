"""Decompositions, where gesdd converges and where it does not."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fedpeft_app.adapters.decomposition import thin_svd
from fedpeft_app.adapters.products import Factors, truncated

# FedEx's residual of a real round (MiniLM, rank 8, six nodes, 20 Newsgroups): 16 of its 56
# dimensions cancel. OpenBLAS 0.3.31's gesdd did not converge on it (AVX-512, one thread).
CORE = Path(__file__).with_name("cancelled_core.npy")


@pytest.fixture
def core() -> npt.NDArray[np.float64]:
    return np.asarray(np.load(CORE))


@pytest.fixture
def no_gesdd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NumPy's routine fail, as it does on some machines for some matrices."""

    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(np.linalg, "svd", fail)


def require_decomposed(matrix: npt.NDArray[np.float64]) -> None:
    u, s, vt = thin_svd(matrix)
    short = min(matrix.shape)
    assert (u.shape, s.shape, vt.shape) == (
        (len(matrix), short),
        (short,),
        (short, matrix.shape[1]),
    )
    np.testing.assert_allclose((u * s) @ vt, matrix, atol=1e-14 * s[0])
    np.testing.assert_allclose(u.T @ u, np.eye(short), atol=1e-13)
    np.testing.assert_allclose(vt @ vt.T, np.eye(short), atol=1e-13)
    assert (np.diff(s) <= 0).all()
    assert s[-1] >= 0


def test_a_real_sum_that_cancels_is_decomposed(core: npt.NDArray[np.float64]) -> None:
    require_decomposed(core)


@pytest.mark.usefixtures("no_gesdd")
@pytest.mark.parametrize("shape", [(56, 56), (3, 7), (7, 3), (1, 1)])
def test_gesvd_takes_what_gesdd_does_not(
    shape: tuple[int, int], core: npt.NDArray[np.float64]
) -> None:
    require_decomposed(core[: shape[0], : shape[1]])


@pytest.mark.usefixtures("no_gesdd")
def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="infs or NaNs"):
        thin_svd(np.array([[1.0, np.nan]]))


def test_what_cancelled_is_left_out_of_the_factors(core: npt.NDArray[np.float64]) -> None:
    update, values = truncated([(1.0, Factors(a=np.eye(56), b=core))])
    assert update.rank == 40  # 8·(6 − 1)
    np.testing.assert_allclose(update.b @ update.a, core, atol=1e-12 * values[0])
