"""From a ranker to a SavedModel: its served path, without auxiliary towers."""

import tensorflow as tf

from tutelage.export.config import ServingConfig
from tutelage.export.signatures import student_signatures, teacher_signatures
from tutelage.models.ranker import Ranker


class Served(tf.Module):
    """A ranker's served path with its variables, and nothing else.

    It is a `tf.Module` rather than a Keras model, so that one graph is saved which any TensorFlow can load.
    Every signature is also a method of the loaded model, and the method fills in the features that are left
    out; see `export.signatures`.
    """

    def __init__(self, ranker: Ranker, serving: ServingConfig | None):
        """`serving` is a student's. None stands for the teacher, which returns raw outputs."""
        super().__init__(name="served")
        self.model_variables = ranker.served_variables
        self.functions = student_signatures(ranker, serving) if serving else teacher_signatures(ranker)
        for name, function in self.functions.items():
            setattr(self, name, function)

    def save(self, path: str) -> None:
        tf.saved_model.save(self, path, signatures=self.functions)
