"""The digits that come with scikit-learn, read without scikit-learn's imports."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits

from peftlab.tasks.data.digits import Digits

PINNED_SPLIT = "02fa7bf80c33dacd19afe7140229c37457cffd2b64d117f3cd7382059feb2a58"
PINNED_FINGERPRINT = "ac3d81c6d4138eedcdd2eeb85fbc78cd842e9ce268d69c4d3c48d15979b6eeeb"


def test_images_and_labels_are_scikit_learns():
    theirs = load_digits()
    examples = Digits().read()
    rows = np.array([int(examples.where(i).split()[-1]) for i in range(1797)])
    assert sorted(rows) == list(range(1797))
    assert np.array_equal(examples.labels, theirs.target[rows])
    ours = np.stack([examples.decode(i) for i in range(1797)])
    assert ours.dtype == np.uint8 and ours.min() == 0 and ours.max() == 255
    assert np.array_equal(np.rint(ours * 16.0 / 255), theirs.images[rows])


def test_the_split_is_fixed_stratified_and_pinned():
    examples = Digits().read()
    assert {role: len(indices) for role, indices in examples.roles.items()} == {"train": 1079, "validation": 359, "test": 359}
    share = np.bincount(examples.labels) / 1797
    for indices in examples.roles.values():
        counts = np.bincount(examples.labels[indices], minlength=10)
        assert np.abs(counts - share * len(indices)).max() < 1.5
    rows = {role: [int(examples.where(int(i)).split()[-1]) for i in indices] for role, indices in examples.roles.items()}
    assert sorted(row for some in rows.values() for row in some) == list(range(1797))
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    assert digest == PINNED_SPLIT, "published numbers rest on this split"


def test_fingerprint_is_pinned():
    assert Digits().fingerprint() == PINNED_FINGERPRINT


def test_scikit_learn_is_not_imported():
    code = "import sys; from peftlab.tasks.data.digits import Digits; Digits().read(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
