"The student's one import: fastai's vision library and every chapter of this one"
from fastai.vision.all import *
from .core import *
from .landcover import *
from .data import *
from .norms import *
from .generator import *
from .discriminator import *
from .encoder import *
from .losses import *
from .gan import *
from .learner import *
from .metrics import *
from .official import *
