from iretrace.footer import Calibration


def quick(cpu: int) -> Calibration:
    return Calibration()
