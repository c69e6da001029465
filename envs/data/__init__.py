"""Data as targets: samples without a density; the sets that come with the project, and readers of a user's own files.

A data set is a `Target` that draws its samples from rows, and keeps others apart to be judged on; docs/data.md lists
them. What is sampled by its density lives in the folder next door, `targets`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "annotated": ["Annotated"],
        "checkerboard": ["checkerboard"],
        "conditioned": ["Conditioned"],
        "dataset": ["Dataset"],
        "digits": ["digits", "digits_binary", "digits_dequantised", "digits_tokens"],
        "labelled": ["LabelledDataset"],
        "load": ["load_data"],
        "python_docs": ["python_docs"],
        "text": ["TextDataset"],
        "two_moons": ["two_moons"],
    },
)
