"""The singular value decomposition, where LAPACK's usual routine gives up.

NumPy calls gesdd (divide and conquer), which ends without convergence on some finite matrices:
those of which a part is nothing but rounding, as sums of updates that cancel are. gesvd (QR
iterations) takes those, for up to six times the time.

Reference:
    OpenBLAS issue 3044 (gesdd fails where gesvd does not).
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def thin_svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Decompose a matrix into U·diag(s)·Vᵀ, with as many columns as its shorter side has.

    Args:
        matrix: `(m, n)`, finite.

    Returns:
        U `(m, k)`, s `(k,)` in falling order, and Vᵀ `(k, n)`, with k = min(m, n).

    Raises:
        ValueError: If a value is not finite.
        numpy.linalg.LinAlgError: If neither routine converges.
    """
    try:
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        from scipy.linalg import svd  # a third of a second to import, and rarely needed

        u, s, vt = svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return u, s, vt
