"""Counts the statistics of facts, to set them beside the published ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from models.tasks.synthetic_freebase import Statistics


def counted(blocks: Iterable[pa.Table], most: Statistics) -> Statistics:
    """Counts facts given in blocks of rows, rising in subject, no subject in two.

    most: has no fewer entities and relations than there are.
    """
    lines_R = np.zeros(most.relations, np.int64)
    seen_N = np.zeros(most.entities, np.bool_)
    facts = subjects = single = largest = 0
    for block in blocks:
        subject, relation = (block[name].to_numpy() for name in ("subject", "relation"))
        lists = block["objects"].combine_chunks()
        objects = lists.flatten().to_numpy()
        seen_N[subject] = seen_N[objects] = True
        lines_R += np.bincount(relation, minlength=len(lines_R))
        own = subject - subject[0]
        rows_B = np.bincount(own)
        facts += len(objects)
        subjects += int(np.count_nonzero(rows_B))
        single += int(np.count_nonzero(rows_B == 1))
        largest = max(largest, int(np.bincount(own, np.diff(lists.offsets.to_numpy())).max()))
    return Statistics(
        entities=int(np.count_nonzero(seen_N)),
        subjects=subjects,
        relations=int(np.count_nonzero(lines_R)),
        facts=facts,
        rows=int(lines_R.sum()),
        largest_relation=int(lines_R.max()),
        single_relations=int(np.count_nonzero(lines_R == 1)),
        largest_subject=largest,
        single_subjects=single,
    )
