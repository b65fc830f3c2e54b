"""Contact settings shared by arms and tasks, as keyword arguments of MuJoCo geoms."""

from types import MappingProxyType

# Nearly rigid contact. With the default impedance a loaded grip creeps by centimetres a second, because
# MuJoCo regularises friction in proportion to 1 - impedance.
STIFF = MappingProxyType({"solref": (0.004, 1.0), "solimp": (0.99, 0.998, 0.0005, 0.5, 2.0)})
GRIP = MappingProxyType({**STIFF, "friction": (1.2, 0.02, 0.0005), "condim": 4})
SMOOTH = MappingProxyType({**STIFF, "friction": (0.4, 0.01, 0.0005)})
