"""The Keras of this process, Keras 3 or tf_keras, and the operations that differ between them.

A process has one Keras for its whole life, the one that ``tf.keras`` is: TensorFlow reads
``TF_USE_LEGACY_KERAS`` when it is imported, and so does this module. Everything of ours takes
`keras` from here and never imports either package by itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

IS_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") in ("true", "True", "1")  # TensorFlow's rule

if TYPE_CHECKING or not IS_LEGACY:
    from elasticdl.model import keras_three as _in_use
else:
    from elasticdl.model import keras_legacy as _in_use

keras = _in_use.keras
Binding = _in_use.Binding
Randomness = _in_use.Randomness
embedding_matrix = _in_use.embedding_matrix
fresh_names = _in_use.fresh_names
id_range = _in_use.id_range
initializer_seed = _in_use.initializer_seed
input_structure = _in_use.input_structure
is_symbolic = _in_use.is_symbolic
metric_variables = _in_use.metric_variables
new_variable_path = _in_use.new_variable_path
only_looks_up = _in_use.only_looks_up
optimizer_classes = _in_use.optimizer_classes
optimizer_config = _in_use.optimizer_config
recorded_updates = _in_use.recorded_updates
state_managers = _in_use.state_managers
tf_variable = _in_use.tf_variable
variable_path = _in_use.variable_path
