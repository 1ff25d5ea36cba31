"""One load by torch's libraries at a time, whichever of them it is.

While transformers and diffusers load a model, they change torch for the whole process: where new
parameters lie (accelerate's `init_empty_weights`), torch's default type, its functions that fill
weights. A model that another thread makes meanwhile has no weights, or another type.
"""

import threading

one_at_a_time = threading.Lock()
