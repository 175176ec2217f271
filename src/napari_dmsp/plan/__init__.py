"""One walk over the windows of a source, for all faces. Knows neither files, dask nor Qt.

A face hands a *source* (``shape``, ``dtype``, ``reader(window)``; arrays become one by themselves),
says which of its axes are what, and takes *events*::

    task = Deblur(psf=psf)  # any `napari_dmsp.settings.Settings`
    axes = Axes.of(data.shape, names="tcyx")  # or Axes(shape, rows, columns, colours, channels)
    plan = Plan.of(task, data, axes, mask=mask, survey="plane", dtype="input")
    result = np.zeros(plan.shape, plan.dtype)
    for event in run(plan, sink=ArraySink(result), token=token):
        ...

`run` yields, for each part (`Part.plane`: steps of the walked axes; `Part.target`: where it lies in
the result), `Begun` (with its ``job``), a `Step` for each evaluation (``state``; ``estimate()`` is
the part so far, as it would be written), and `Done` (``restoration``, ``block``, ``stopped``);
or `Kept` for what is constant, or `LeftOut` with the ``reason``. Nothing was written then. Set
``token.stop`` to keep the current estimate and end, ``token.cancel`` to drop it: `CancelledError`.

A region of a layer is ``ArraySource.of(data, window)``, where the window holds the margin too, with
``grid=Grid.inner(size, (rows, columns))``, the region within the window. `forecast` says what a
plan takes. `restore_array` does all of it for an array. `run_on` restores on an executor.

The policy, in `survey`: a channel has one prior, that of its middle plane, or of the one nearest to
it that is not constant. Range, noise level and an unknown point spread function are found for each
plane, or for all together with ``survey="stack"``. Constant planes stay as they are: they are the
value in the shape and the type of the result. Planes that cannot be restored are left out, with the
reason; a lone plane that is constant or cannot be restored is an error.
"""

from .axes import ArraySource, Axes, Pixels, Plane
from .forecast import forecast
from .parts import Part, Plan, fingerprint, try_settings
from .run import (
    ArraySink,
    Begun,
    CancelledError,
    Done,
    Event,
    Kept,
    LeftOut,
    Restored,
    Step,
    Surveyed,
    Token,
    restore_array,
    run,
    run_on,
)
