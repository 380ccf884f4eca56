"Masks by segmentation networks of torchvision and transformers, whose weights are made here"
import numpy as np, pytest, torch
from PIL import Image
from torchvision import models
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.data.segmented import masks_from

NAME = 'lraspp_mobilenet_v3_large'                      # torchvision's smallest

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_landcover(tmp_path_factory.mktemp('land'), n=3, size=64)/'images'

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "An empty cache of torch's"
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path/'hub'))
    (tmp_path/'hub/checkpoints').mkdir(parents=True)
    return tmp_path/'hub/checkpoints'

def masks_of(folder): return {o.stem: np.array(Image.open(o)) for o in (folder/'labels').glob('*.png')}

def test_a_network_of_torchvision_by_its_name(hub, pictures, tmp_path):
    torch.manual_seed(0)
    net, weights = models.get_model(NAME, weights_backbone=None), models.get_model_weights(NAME).DEFAULT
    torch.save(net.state_dict(), hub/weights.url.rpartition('/')[2])
    out = masks_from(NAME, pictures, tmp_path/'out', confidence=.05)
    assert (out/'codes.txt').read_text().splitlines() == weights.meta['categories']
    assert len(masks_of(out)) == 3
    for name, mask in masks_of(out).items():
        picture = Image.open(pictures/f'{name}.png').convert('RGB')
        with torch.no_grad(): said = net.eval()(weights.transforms()(picture)[None])['out'][0].softmax(0)
        said = torch.nn.functional.interpolate(said[None], (64, 64), mode='bilinear', align_corners=False)[0]
        sure, ids = said.max(0)
        close = (sure - .05).abs() < 1e-4
        assert (mask == np.where(sure < .05, 255, ids))[~close].all()

def test_weights_that_are_not_there_are_named(hub, pictures, tmp_path, monkeypatch):
    def no_network(*args, **kwargs): raise OSError('no network')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', no_network)
    with pytest.raises(OSError, match=rf'weights of {NAME} are not in torch.s cache.*https://.*checkpoints'):
        masks_from(NAME, pictures, tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_a_network_of_transformers_by_its_folder(pictures, tmp_path):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
    names = ['water', 'road', 'wood']
    config = SegformerConfig(depths=[1]*4, hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1]*4, sr_ratios=[1]*4,
                             decoder_hidden_size=8, id2label=dict(enumerate(names)), label2id={})
    torch.manual_seed(0)
    net = SegformerForSemanticSegmentation(config).eval()
    reader = SegformerImageProcessor(size=dict(height=64, width=64))
    for o in (net, reader): o.save_pretrained(tmp_path/'net')
    out = masks_from(tmp_path/'net', pictures, tmp_path/'out')
    assert (out/'codes.txt').read_text().splitlines() == names
    for name, mask in masks_of(out).items():
        picture = Image.open(pictures/f'{name}.png').convert('RGB')
        with torch.no_grad(): said = net(**reader(images=picture, return_tensors='pt')).logits.softmax(1)
        said = torch.nn.functional.interpolate(said, (64, 64), mode='bilinear', align_corners=False)[0]
        best = said.topk(2, dim=0).values
        assert (mask == said.argmax(0).numpy())[(best[0] - best[1]).numpy() > 1e-5].all()
    assert SpadeDataLoaders.from_folder(out, size=64, bs=1, ignore=255).n_classes == 3

def test_a_learner_stays_as_it_is(pictures, tmp_path):
    from fastai.vision.all import CrossEntropyLossFlat, DataBlock, ImageBlock, Learner, MaskBlock, get_image_files
    block = DataBlock((ImageBlock, MaskBlock(['a', 'b'])), get_items=get_image_files,
                      get_y=lambda o: pictures.parent/'labels'/o.name)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2)).train()
    net[1].eval()                                       # a frozen norm
    learn = Learner(block.dataloaders(pictures, bs=2), net, CrossEntropyLossFlat(axis=1))
    masks_from(learn, pictures, tmp_path/'out')
    assert [m.training for m in net.modules()] == [True, True, False] and net[1].num_batches_tracked == 0
