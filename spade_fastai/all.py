"The student's one import: fastai's vision library and every chapter of this one"
from fastai.vision.all import *
from .core import *
from .palette import *
from .noise import *
from .data.errors import *
from .data.landcover import *
from .data.grids import *
from .data.raster import *
from .data.classes import *
from .data.masks import *
from .data.images import *
from .data.pairs import *
from .data.splits import *
from .data.readers import *
from .data.block import *
from .data.show import *
from .data.scenes import *
from .data.areas import *
from .data.chips import *
from .data.items import *
from .data.layouts import *
from .data.check.look import *
from .data.check.cures import *
from .data.check.findings import *
from .data.check.report import *
from .nets.norms import *
from .nets.spectral import *
from .nets.starts import *
from .nets.generator import *
from .nets.critic import *
from .nets.encoder import *
from .nets.clade import *
from .nets.sean import *
from .nets.multi import *
from .nets.inade import *
from .nets.oasis import *
from .nets.pix2pix import *
from .nets.concat import *
from .nets.lite0 import *
from .nets.frozen import *
from .fast.ways import plain_math
from .fast.drawing import folded
from .fast.switch import *
from .train.losses import *
from .train.penalties import *
from .train.augment import *
from .train.switchers import *
from .train.step import *
from .train.gan import *
from .train.schedule import *
from .train.callbacks import *
from .train.memory import *
from .train.ema import *
from .train.resume import *
from .train.oasis import *
from .train.warp import *
from .drawing import *
from .saving import *
from .pretrained import *
from .export import *
from .metrics import *
from .score import *
from .learner import *
from .baselines import *
from .apps.singan import load_singan, paper_singan, patch_distance, quick_singan, singan_learner
from .apps.flight import World, flight_learner, fly
from .apps.augment import augment
from .apps.paint import paint
from .synthetic import unmarked
from .apps.marks import read_mark, save_marked
from .apps.raster import draw_raster
from .official import *

# Insides, and words that a student wants for her own variables, stay in their rooms: `presets.sean`, `augment.cutout`
for _name in ('brightness contrast saturation translate cutout small modern clade inade sean PILStyleMask region_means '
              'nearest_index BlockSplit fit_scale raw_range PartialConv2d noise_of_things').split():
    globals().pop(_name, None)
