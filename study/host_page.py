"""Saves an HTML page into ComfyUI's output folder."""

from pathlib import Path

import folder_paths


def save_page(page: str, filename_prefix: str) -> str:
    """Write an HTML page under the next free number of a prefix in the output folder; its path.

    ValueError when the prefix leaves the output folder.
    """
    output = folder_paths.get_output_directory()
    try:
        folder, name, _, _, _ = folder_paths.get_save_image_path(filename_prefix, output)
    except Exception as error:
        raise ValueError(
            f"The prefix {filename_prefix!r} is outside the output folder. Use a name without .. such as blockwork_page."
        ) from error
    number = 1
    while (path := Path(folder) / f"{name}_{number:05}.html").exists():
        number += 1
    half = path.with_suffix(".tmp")
    half.write_text(page, encoding="utf-8")
    half.replace(path)
    return str(path)
