"""Parts of the GPU check in one process: ``part.py MODE KIND WORK FILE NAME=SECONDS...``; run by ``check.py``.

MODE is dynamic or static, KIND gpu, cpu or simulated. FILE is written after every figure. The process ends with the
first part that fails or reaches its limit: what such a part leaves on a card is not known.
"""

import sys
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(mode: str, kind: str) -> None:
    """What ComfyUI's main.py does before it serves: arguments, allocator, comfy_aimdo, the class of patchers."""
    sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]
    sys.argv = [
        "main.py",
        *({"cpu": ["--cpu"]}.get(kind) or {"static": ["--disable-dynamic-vram"]}.get(mode, [])),
    ]
    if kind == "simulated":
        sys.path.insert(0, str(ROOT / "tests" / "host" / "dynamic"))
        import kit

        if mode == "static":
            kit.comfy.model_patcher.CoreModelPatcher = kit.comfy.model_patcher.ModelPatcher
            kit.comfy.memory_management.aimdo_enabled = False
        return
    from refhost import layout

    sys.path.insert(0, str(layout.comfyui_path()))
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.cli_args import args, enables_dynamic_vram

    dynamic = kind == "gpu" and enables_dynamic_vram()
    if dynamic:
        import comfy_aimdo.control

        comfy_aimdo.control.init(simple_vram_headroom=None, nvml_pressure=not args.disable_nvml_pressure)
    if kind == "gpu":
        import cuda_malloc  # noqa: F401  it sets the allocator, before torch is imported
    import comfy.memory_management
    import comfy.model_management as management
    import comfy.model_patcher

    if dynamic and management.is_nvidia() and not management.is_wsl():
        devices = [
            (device.index, int(args.vram_headroom * 1024**3)) for device in management.get_all_torch_devices()
        ]
        if comfy_aimdo.control.init_devices(devices):
            comfy_aimdo.control.set_log_info()  # its default writes a line for every allocation
            comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
            comfy.memory_management.aimdo_enabled = True
    from refhost.pack import load_pack

    load_pack()


def main() -> int:
    mode, kind, work, file, *todo = sys.argv[1:]
    start(mode, kind)
    import measuring
    import parts

    setup = measuring.Setup(kind=kind, mode=mode, work=Path(work), file=Path(file))
    for name, seconds in (one.split("=") for one in todo):
        part = setup.part(name)
        watch = threading.Timer(float(seconds), part.stop)
        watch.start()
        try:
            with measuring.inference():
                parts.PARTS[name](part)
        except Exception as error:
            traceback.print_exc()
            part.end(f"failed: {type(error).__name__}: {error}")
            return 1
        finally:
            watch.cancel()
        part.end("done")
        measuring.unload()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
