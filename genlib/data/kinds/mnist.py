"""The official MNIST archives (LeCun, Cortes and Burges): 60,000 training and 10,000 test images."""

from genlib.data.official import Content, RemoteFile


def _mnist(name: str, md5: str, content: Content) -> RemoteFile:
    # LeCun's own host no longer serves the files; these two are the copies that torchvision and TensorFlow point to.
    hosts = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
    return RemoteFile(name, 16 << 20, tuple(f"{host}/{name}" for host in hosts), md5=md5, content=content)


OFFICIAL = (
    _mnist(
        "train-images-idx3-ubyte.gz",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        Content("6bbc9ace898e44ae57da46a324031adb", 47_040_016),
    ),
    _mnist(
        "train-labels-idx1-ubyte.gz",
        "d53e105ee54ea40749a09fcbcd1e9432",
        Content("a25bea736e30d166cdddb491f175f624", 60_008),
    ),
    _mnist(
        "t10k-images-idx3-ubyte.gz",
        "9fb629c4189551a2d022fa330f9573f3",
        Content("2646ac647ad5339dbf082846283269ea", 7_840_016),
    ),
    _mnist(
        "t10k-labels-idx1-ubyte.gz",
        "ec29112dd5afa0611ce80d1b7f02629c",
        Content("27ae3e4e09519cfbb04c329615203637", 10_008),
    ),
)
