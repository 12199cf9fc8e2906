"""Gathers and scatters."""

from lazyjax.jaxpr.labels import FIXED, EquationPair, Rows, paired, same_except, without
from lazyjax.jaxpr.registry import described_by_rows


@described_by_rows("gather", dependence="every", batch_param="slice_sizes")
def _gather(pair: EquationPair) -> Rows | None:
    numbers, sizes = pair.params["dimension_numbers"], pair.both("slice_sizes")
    operand, indices = pair.labels
    index_axes = [
        i for i in range(len(pair.result()[0])) if i not in numbers.offset_dims
    ]
    if isinstance(indices, Rows):
        if indices.axis >= len(index_axes) or sizes[0] != sizes[1]:
            return None
        if operand is FIXED:
            return Rows(index_axes[indices.axis], indices.inner)
        batched = numbers.start_indices_batching_dims
        axes = numbers.operand_batching_dims, batched, [index_axes[i] for i in batched]
        return paired(operand, indices, *axes)
    if not isinstance(operand, Rows) or operand.axis in numbers.start_index_map:
        return None
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    offset = without(operand, gone)
    if offset is None or not same_except(sizes, operand.axis):
        return None
    if not pair.takes_whole(sizes, operand.axis):
        return None
    return Rows(int(numbers.offset_dims[offset.axis]), operand.inner)


@described_by_rows(
    "scatter",
    *(
        f"scatter{dash}{k}"
        for k in ("add", "sub", "mul", "min", "max")
        for dash in "-_"
    ),
    follows_dtype=False,  # they hold a program for single numbers, in their own dtype
)
def _scatter(pair: EquationPair) -> Rows | None:
    operand, indices, updates = pair.labels
    numbers = pair.params["dimension_numbers"]
    if not isinstance(operand, Rows) or not isinstance(updates, Rows):
        return None
    if operand.inner != updates.inner:
        return None
    window = numbers.update_window_dims
    if indices is FIXED:
        gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        place = without(operand, gone)
        is_apart = (
            place is not None
            and operand.axis not in numbers.scatter_dims_to_operand_dims
            and window[place.axis] == updates.axis
            and all(
                update[updates.axis] == whole[operand.axis]
                for update, whole in zip(pair.operand(2), pair.operand(0), strict=True)
            )
        )
        return operand if is_apart else None
    index_axes = [i for i in range(len(pair.operand(2)[0])) if i not in window]
    batched = numbers.scatter_indices_batching_dims
    axes = numbers.operand_batching_dims, batched, [index_axes[i] for i in batched]
    found = paired(operand, indices, *axes)
    return operand if found == updates else None
