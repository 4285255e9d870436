"""What each NVFlare client runs: every model that comes is sent back, plus a constant."""

import nvflare.client as flare
from nvflare.app_common.np.constants import NPConstants

STEP = 1e-3

flare.init()
while flare.is_running():
    model = flare.receive()
    params = {NPConstants.NUMPY_KEY: model.params[NPConstants.NUMPY_KEY] + STEP}
    flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
