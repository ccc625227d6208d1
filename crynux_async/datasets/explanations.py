"""What is behind each code of data sets: what a node makes of it, and an example.

``CODES`` has the short form, which stands beside every problem; this is what ``crynux-async explain`` shows.

Source: datasets 3.1.0, which nodes run; stable-diffusion-task finetune_lora.py and download_url_dataset.py.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Explanation:
    """What is behind a code.

    Attributes:
        happens: What a node makes of it, in whole sentences.
        example: A data set, a row or an address that gets it.
        source: Where the rule comes from.
    """

    happens: str
    example: str
    source: str = "datasets 3.1.0, which nodes run"


_LAYOUT: Final = "datasets 3.1.0 data_files.py and load.py"
_METADATA: Final = "datasets 3.1.0 packaged_modules/folder_based_builder"
_TRAINING: Final = "stable-diffusion-task finetune_lora.py"
_DOWNLOAD: Final = "stable-diffusion-task download_url_dataset.py"
_PACK: Final = "crynux_async.datasets.pack()"


def _of_layout(happens: str, example: str) -> Explanation:
    return Explanation(happens=happens, example=example, source=_LAYOUT)


def _of_metadata(happens: str, example: str) -> Explanation:
    return Explanation(happens=happens, example=example, source=_METADATA)


def _of_training(happens: str, example: str) -> Explanation:
    return Explanation(happens=happens, example=example, source=_TRAINING)


def _of_download(happens: str, example: str) -> Explanation:
    return Explanation(happens=happens, example=example, source=_DOWNLOAD)


def _of_pack(happens: str, example: str) -> Explanation:
    return Explanation(happens=happens, example=example, source=_PACK)


_FILE: Final[Mapping[str, Explanation]] = {
    "CX301": _of_download(
        "A node extracts by the ending of the name, and loads folders only: any other file stays as it is, and "
        "loading fails.",
        "cats.7z, cats.rar, or a single cats.parquet",
    ),
    "CX302": _of_download(
        "A node's own libraries stop where they cannot read on, before the first step.",
        "a ZIP whose upload was cut off, a parquet file without its last bytes",
    ),
    "CX303": Explanation(
        happens="The check stopped, so it says nothing of what it has not read. A node has no such limit.",
        example="an image of 300 MB where 256 MiB are read at most",
        source="crynux_async.datasets.Limits",
    ),
    "CX304": _of_download(
        "A node extracts whatever is there, wherever it points to; links and devices lead elsewhere. Some stop it, and "
        "so does a name that its disk cannot hold.",
        "../cats/0.png in a ZIP, a link in a tar",
    ),
    "CX305": _of_layout("The loader finds no file that it knows, and stops.", "a folder with notes.docx only"),
    "CX306": _of_layout(
        "The loader goes by the most frequent kind of file; what is inside another archive is not looked for.",
        "0.png, metadata.jsonl and more.zip in one folder",
    ),
    "CX307": _of_metadata(
        "Beside metadata the loader opens every ZIP and treats its images as images without a row; a damaged one stops "
        "it as well.",
        "images.zip beside metadata.jsonl",
    ),
    "CX308": _of_layout(
        "The loader sees by state.json that this was written by save_to_disk(), and refuses it.",
        "data-00000-of-00001.arrow, dataset_info.json, state.json",
    ),
    "CX309": _of_layout(
        "'::' separates two addresses for the loader, which looks elsewhere then. A backslash is part of a name.",
        "cat::1.png; train\\0.png in a ZIP of an old Windows program",
    ),
    "CX310": _of_layout(
        "Words in names of files and folders tell the loader which split they belong to; training takes the split "
        "train and stops when there is none.",
        "all images in test/, or named cat_test_1.png",
    ),
    "CX311": _of_layout(
        "As soon as one name tells a split, everything whose name tells none is left out, without a word.",
        "000_train.png beside seven other images: one image is trained",
    ),
    "CX312": _of_layout(
        "The most frequent extension decides how everything is loaded.",
        "three images and four .csv files: loaded as CSV",
    ),
    "CX313": _of_layout("Each split must be loaded the same way.", "train/ with images and test/ with .txt files only"),
    "CX314": _of_layout("Only train is trained; every node loads the rest, too.", "train/, test/ and validation/"),
    "CX315": _of_layout(
        "The head of README.md, .huggingface.yaml and dataset_infos.json may say which files are which split and what "
        "their columns hold, and are followed before anything else. A head that is no YAML stops the loader.",
        "configs: in the YAML head of README.md",
    ),
    "CX316": _of_layout(
        "A Python file of the data set's own name is its program for the loader, which runs none.", "cats/cats.py"
    ),
    "CX317": _of_layout(
        "A file whose name tells its split twice is found twice, and counts twice in every epoch.", "train/train_1.png"
    ),
    "CX318": _of_layout(
        "The loader knows each extension in lower case and in upper case, and leaves out any mixture without a word.",
        "IMG_1.Jpg",
    ),
    "CX319": _of_layout("The loader has no such extension in its list, and leaves the file out.", "IMG_1.HEIC"),
}

_CAPTIONS: Final[Mapping[str, Explanation]] = {
    "CX320": _of_training(
        "Without metadata there is no column of captions: training looks for it and stops.", "a folder of images only"
    ),
    "CX321": _of_layout(
        "There are as many .txt files as images, so the loader takes them for a data set of texts, without any image.",
        "0.png with 0.txt, 1.png with 1.txt",
    ),
    "CX322": _of_metadata(
        "Arrow reads metadata.jsonl in pieces of 1 MiB, pandas metadata.csv; what they cannot read stops the loader.",
        'a list around all objects, "cute cat \\ud83d" (half a character), objects on several lines beyond 1 MiB, '
        "UTF-16",
    ),
    "CX323": _of_metadata(
        "All metadata files are put together, and must have the same columns of the same kinds.",
        "a/metadata.jsonl with numbers in a column, b/metadata.jsonl with texts in it",
    ),
    "CX324": _of_metadata(
        "Rows find their image by file_name, training its caption by dataset_caption_column.",
        '{"file": "0.png", "text": "a cat"}',
    ),
    "CX325": _of_metadata(
        "The loader stops at the first image that has no row.", "0.png and 1.png, and a row for 0.png"
    ),
    "CX326": _of_metadata(
        "The loader goes through the images, so the row is never looked at.", "a row for 9.png, no 9.png"
    ),
    "CX327": _of_training(
        "null is neither text nor list: training stops at the step that draws it, sooner or later.",
        '{"file_name": "0.png", "text": null}, or None in a CSV',
    ),
    "CX328": _of_training(
        "A column has one kind of value. Numbers, booleans and times are not text, and training stops.",
        '"text": 5 in every row, or "2024-01-31" in every row, which Arrow takes for times',
    ),
    "CX329": _of_training("It is trained as a picture of nothing in particular.", '{"file_name": "0.png", "text": ""}'),
    "CX330": _of_metadata("The last row of an image wins.", "two rows for 0.png"),
    "CX331": _of_metadata(
        "pandas reads words such as None, NA and null as missing values, and with its version 3 loading fails.",
        "metadata.csv with the caption NA",
    ),
    "CX333": Explanation(
        happens="Without the mark of the datasets library the column holds bytes, not images, and training stops.",
        example="a table written by pandas with a column of bytes",
        source="datasets 3.1.0 features/features.py (from_arrow_schema)",
    ),
    "CX334": _of_metadata(
        "The column of the metadata takes the place of the images.", '{"file_name": "0.png", "image": "a"}'
    ),
    "CX335": _of_training("CLIP reads 77 tokens, start and end included; the tokenizer cuts off the rest.", "80 tags"),
    "CX336": _of_metadata(
        "Nodes read UTF-8. pack() does not guess in silence, because a wrong guess gives readable nonsense.",
        "0.txt that Notepad saved as ANSI (cp1252)",
    ),
    "CX337": _of_pack("Both hold a caption; the one in .txt is packed.", "0.txt and 0.caption beside 0.png"),
    "CX367": _of_metadata(
        "The loader knows two names, to the letter. A file under any other has nothing to do with images for it.",
        "metadata.json1, Metadata.jsonl, metadata.jsonl.txt",
    ),
    "CX338": _of_pack(
        "For kohya's trainers a number before a folder's name repeats its images. Nodes do not know this.",
        "img/10_sks dog/0.png: seen once an epoch, not ten times",
    ),
    "CX339": _of_pack(
        "Regularization images are an idea of kohya's trainers. A node trains on them as on all others, so the LoRA "
        "learns them.",
        "reg/1_dog/0.png",
    ),
}

_IMAGES: Final[Mapping[str, Explanation]] = {
    "CX340": _of_training(
        "Pillow 10.0.1 opens, loads and converts each image when a step draws it; one that it cannot read stops the "
        "training midway.",
        "a cut JPEG, an AVIF or HTML page named .png, a Git LFS pointer",
    ),
    "CX341": _of_training("It is enlarged to the resolution, and its blur is learned.", "a 200x200 image at 512"),
    "CX342": _of_training(
        "The shorter side becomes the resolution, and the longer one is cropped: at random unless center_crop is set.",
        "1024x512: half of it is seen at a time",
    ),
    "CX343": _of_training("It is seen as often as it is there.", "0.png and copy of 0.png"),
    "CX344": _of_training("Each step sees the same few pictures.", "three images"),
    "CX345": Explanation(
        happens="Pillow takes more than 178,956,970 pixels for an attack and refuses to open the image.",
        example="a scan of 20,000x20,000 pixels",
        source="Pillow 10.0.1 Image.py (MAX_IMAGE_PIXELS)",
    ),
    "CX346": _of_training("convert('RGB') drops transparency; what is under it shows, often black.", "a cut-out PNG"),
    "CX347": _of_training(
        "convert('RGB') clips at 255, so that most of a 16-bit picture is white.", "a 16-bit grey PNG"
    ),
}

_PACKING: Final[Mapping[str, Explanation]] = {
    "CX348": _of_pack("Nobody but you knows which of them are right.", "0.txt beside 0.png, and metadata.jsonl"),
    "CX349": _of_pack("The archive has images and captions only.", "notes.docx, .DS_Store"),
    "CX368": _of_pack(
        "Nodes read UTF-8, and that is what the archive has.", "0.txt in cp1252, packed with its encoding"
    ),
    "CX364": _of_pack(
        "Names that look alike may differ in letter case, Unicode form, encoding or folder. Where one image only "
        "fits, it is taken.",
        'IMG_1.TXT for IMG_1.JPG; "file_name": "train/a.png" inside train/',
    ),
}

_ADDRESS: Final[Mapping[str, Explanation]] = {
    "CX350": _of_download("Nodes load http:// and https:// and nothing else.", "s3://bucket/cats.zip, ipfs://..."),
    "CX351": _of_download(
        "A node sends the same request, and fails in the same way.", "a host that is down, an expired certificate"
    ),
    "CX352": _of_download(
        "Nodes ask with HEAD for the file's name before they GET it, and stop unless it succeeds.",
        "an address that is signed for GET",
    ),
    "CX353": _of_download("Nodes log in nowhere.", "a private file"),
    "CX354": _of_download("A node extracts by the ending.", "cats.tgz, my.data-v1.0"),
    "CX355": _of_download("A node loads folders, not single files.", "https://.../train.parquet"),
    "CX356": _of_download(
        "Where a name has no dot, a node goes by the first eight bytes, which tell of ZIP, gzip, bzip2 and xz only.",
        "a plain tar named cats",
    ),
    "CX357": _of_download("A node extracts by the name and stops at the content.", "cats.zip that is an HTML page"),
    "CX358": _of_download(
        "Characters other than letters, digits, '._-' and spaces are dropped.", "...zip, 300 letters"
    ),
    "CX359": _of_download(
        "Other people's machines have another network.", "http://192.168.0.7/cats.zip, http://minio:9000/..."
    ),
    "CX360": _of_download(
        "The address goes to strangers' machines, as it is.", "https://me:secret@host/cats.zip, ?token=..."
    ),
    "CX361": _of_download(
        "The folder of an address is named by its md5 and kept. What is there is used again, even half of it.",
        "cats.zip with new images under the old address",
    ),
    "CX362": _of_download(
        "Every round runs on another node, which loads it anew.", "a file that is removed after an hour"
    ),
    "CX363": _of_download(
        "A node reads all of it; this check sees the beginning, which does not show a tar inside.",
        "a compressed file named cats",
    ),
    "CX365": _of_download(
        "A signature is valid for a time, and often for GET alone. Nodes ask with HEAD first, and the last of four "
        "tries may begin many hours after the job was made.",
        "https://.../cats.zip?X-Amz-Expires=3600&X-Amz-Signature=...",
    ),
    "CX366": _of_download(
        "The address is made for people: it shows a page with a button, and a node stores the page.",
        "https://drive.google.com/file/d/.../view, https://github.com/me/cats/blob/main/cats.zip",
    ),
}

EXPLANATIONS: Final[Mapping[str, Explanation]] = MappingProxyType(
    {**_FILE, **_CAPTIONS, **_IMAGES, **_PACKING, **_ADDRESS}
)
"""What is behind every code of ``CODES``."""
