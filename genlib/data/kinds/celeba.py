"""CelebA (Liu et al. 2015), aligned and cropped: 202,599 images, 40 attributes, identities, official partition.

For non-commercial research only, and not to be passed on: the dataset's terms.
"""

from genlib.data.official import RemoteFile

OFFICIAL = (
    RemoteFile(
        "img_align_celeba.zip",
        2 << 30,
        drive_id="0B7EVK8r0v71pZjFTYXZWM3FlRnM",
        md5="00d2c5bc6d35e252742224ab0c1e8fcb",
        sha256="46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
    ),
    RemoteFile(
        "list_attr_celeba.txt",
        32 << 20,
        drive_id="0B7EVK8r0v71pblRyaVFSWGxPY0U",
        md5="75e246fa4810816ffd6ee81facbd244c",
    ),
    RemoteFile(
        "list_eval_partition.txt",
        8 << 20,
        drive_id="0B7EVK8r0v71pY0NSMzRuSXJEVkk",
        md5="d32c9cbf5e040fd4025c592c306e6668",
    ),
    RemoteFile(
        "identity_CelebA.txt",
        8 << 20,
        drive_id="1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS",
        md5="32bd1bd63d3c78cd57e08160ec5ed1e2",
    ),
)
