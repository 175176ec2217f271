"""Image files: each format is read and written in one place, without torch."""

from .pictures import (
    NUMPY,
    SUFFIXES,
    check_output,
    check_psf_output,
    describe,
    fitting_suffix,
    images_among,
    open_stack,
    read_image,
    read_mask,
    read_optics,
    read_planes,
    read_psf,
    write_image,
    write_psf,
)
from .records import (
    as_json,
    check_folder,
    check_room,
    check_writable,
    error_beside,
    make_folder,
    name_beside,
    write_json,
    written_whole,
)
from .stacks import TIFF, Axis, Picture, Stack
from .tiff import RECORD
