"""Labeled Faces in the Wild (Huang et al. 2007), deep funneled (Huang et al. 2012), with its View 1."""

from genlib.data.official import RemoteFile, Tree

_SITE = "https://umass-vis-lfw.github.io"

OFFICIAL = (
    RemoteFile(
        "lfw-deepfunneled.tgz",
        256 << 20,
        drive_id="1qqNse-0j3LYdgXnspgaKP2iTgYWXU9oT",
        md5="68331da3eb755a505a502b5aacb3c201",
        content=Tree("8c47346322ebf6cfbb0d6a79ff6e65c791c3bd3b361adf93d1af690f10fa63a7", 13_233, 116_589_584),
    ),
    RemoteFile("peopleDevTrain.txt", 1 << 20, (f"{_SITE}/peopleDevTrain.txt",), md5="54eaac34beb6d042ed3a7d883e247a21"),
    RemoteFile("peopleDevTest.txt", 1 << 20, (f"{_SITE}/peopleDevTest.txt",), md5="e4bf5be0a43b5dcd9dc5ccfcb8fb19c5"),
)
