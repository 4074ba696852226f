# Completions of taming for bash, 3.2 or newer; nothing else is needed.
# Made by scripts/completions from the commands of taming: run that again instead of changing this.

# Sets what the command $1 has: its commands, its flags (commas between the spellings of one, + before one that may be
# repeated).
_taming_command() {
    case $1 in
    '') commands='train-vqgan train-prior sample tokenize reconstruct decode import export annotate tokens info report demo-data doctor guide presets weights eval' flags='--version -h,--help' ;;
    'train-vqgan') commands='' flags='--preset --scale --minutes --steps --size -o,--out --name --resume -0,--null --kind --labels --unlabelled --colours --label-values --missing --depth-range --pictures --batch-size --accumulate --gradient-checkpointing --learning-rate --disc-learning-rate --betas --warmup --final-lr --disc-final-lr --clip --ema --l1-weight --l2-weight --perceptual --perceptual-weight --logits-weight --codebook-weight --beta --legacy --kl-weight --kl-ramp --relaxation --relaxation-ramp --disc-weight --disc-train-start --disc-start --disc-ramp --lecam-weight --disc-augment --quantizer --quantize-start --gradient --entropy-weight --entropy-temperature --codebook-decay --revive --crop-scale --flip,--no-flip --held --val-every --val-images --save-every --snapshots --tensorboard --seed --device --precision --workers --cache --val --init --train --perturb --prior --network --ch --decoder-ch --ch-mult --patch-size --shortcut,--no-shortcut --num-res-blocks --n-res-channel --norm-groups --attn-resolutions --z-channels --resolution --dropout --codebook-size --codebook-dim --codebook --fsq-levels --fsq-bound --normalize --disc-ndf --disc-num-layers --disc-loss --disc-blur --nproc --dry-run --device-name --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'train-prior') commands='' flags='--preset --scale --minutes --steps -o,--out --name --resume --codec +--cond-ckpt --batch-size --accumulate --gradient-checkpointing --compile --fsdp --learning-rate --betas --weight-decay --warmup --final-lr --clip --ema --dropout --pkeep --condition-dropout --cond --held --val-every --val-windows --patience --save-every --snapshots --samples --tensorboard --seed --device --precision --init --arch --level --n-layer --n-head --n-embd --window --reach --res-blocks --kernel --nproc --dry-run --device-name --config --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'sample') commands='' flags='-n --class --size +--cond --complete --mask --redraw --at --ckpt -o,--out --codec --above --class-map --first --tokens --npz --temperature --top-k --top-p --min-p --guidance --greedy --seed --candidates --keep --accept-rate --classifier --stride --speculate --sample-steps --batch-size --weights --offline --name --shard --device --precision --memory --dry-run --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'tokenize') commands='' flags='--ckpt -o,--out --size --views +--cond +--cond-ckpt -0,--null --batch-size --shard --device --precision --memory --workers --dry-run --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'reconstruct') commands='' flags='--ckpt -o,--out --size --pictures --batch-size --device --precision --memory --workers --shard --dry-run --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'decode') commands='' flags='--codec --batch-size --device --precision --memory --shard --dry-run --config --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'import') commands='' flags='-o,--out --config --codec --allow-non-finite --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'export') commands='' flags='-o,--out --to --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'annotate') commands='segmentation depth pose edges' flags='-h,--help' ;;
    'annotate segmentation') commands='' flags='-o,--out --model --shard --workers --dry-run --weights --offline --device --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'annotate depth') commands='' flags='-o,--out --model --shard --workers --dry-run --weights --offline --device --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'annotate pose') commands='' flags='-o,--out --score --joint-score --shard --workers --dry-run --weights --offline --device --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'annotate edges') commands='' flags='-o,--out --shard --workers --dry-run --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'tokens') commands='verify merge' flags='-h,--help' ;;
    'tokens verify') commands='' flags='--json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'tokens merge') commands='' flags='-o,--out --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'info') commands='' flags='--config --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'report') commands='' flags='-o,--out --by --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'demo-data') commands='' flags='-n,--count --size --seed --kind --workers --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'doctor') commands='' flags='--json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'guide') commands='' flags='--json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'presets') commands='ls show' flags='-h,--help' ;;
    'presets ls') commands='' flags='--json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'presets show') commands='' flags='--json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'weights') commands='ls verify fetch' flags='-h,--help' ;;
    'weights ls') commands='' flags='--all --weights --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'weights verify') commands='' flags='--weights --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'weights fetch') commands='' flags='--all -o,--out --offline --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval') commands='fid is kid prc rfid recon codebook nll memorization all' flags='-h,--help' ;;
    'eval fid') commands='' flags='-o,--out --batch-size --codec --features --resize --size --cache,--no-cache --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval is') commands='' flags='-o,--out --batch-size --codec --features --resize --size --cache,--no-cache --splits --seed --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval kid') commands='' flags='-o,--out --batch-size --codec --features --resize --size --cache,--no-cache --subsets --subset-size --seed --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval prc') commands='' flags='-o,--out --batch-size --codec --features --resize --size --cache,--no-cache --neighbours --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval rfid') commands='' flags='-o,--out --batch-size --features --resize --size --cache,--no-cache --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval recon') commands='' flags='-o,--out --batch-size --size --perceptual --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval codebook') commands='' flags='-o,--out --batch-size --size --device --memory --workers --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval nll') commands='' flags='-o,--out --batch-size --stride --order --sample-steps --device --memory --workers --precision --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval memorization') commands='' flags='-o,--out --batch-size --held-out --codec --features --resize --size --cache,--no-cache --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    'eval all') commands='' flags='-o,--out --batch-size --perceptual --features --resize --size --cache,--no-cache --device --memory --workers --weights --offline --config --max-pixels --json -q,--quiet -v,--verbose --debug -h,--help' ;;
    esac
}

# Sets what a flag may be; $1 is `command flag`. Fails where it takes no value.
_taming_value_of_flag() {
    case $1 in
    'train-vqgan --precision' | 'train-prior --precision') words='auto fp32 bf16' ;;
    'train-vqgan --cache') ;;
    'sample --cond') keys='image segmentation depth pose edges' suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .npy .json' ;;
    'tokenize -o' | 'tokenize --out' | 'tokens merge -o' | 'tokens merge --out') suffixes='.h5' ;;
    'tokenize --cond') words='edges lowres coords' keys='image segmentation depth pose edges' suffixes='' bare='' ;;
    'import -o' | 'import --out') suffixes='.safetensors' ;;
    'import --config' | 'info --config') suffixes='.yaml .yml' ;;
    'export -o' | 'export --out') suffixes='.ckpt' ;;
    'annotate depth --model') suffixes='' ;;
    'demo-data --kind') words='landscape figure' ;;
    *' --version' | *' -h' | *' --help' | *' --resume' | *' -0' | *' --null' | *' --unlabelled' | *' --gradient-checkpointing' | *' --legacy' | *' --flip' | *' --no-flip' | *' --snapshots' | *' --tensorboard' | *' --cache' | *' --shortcut' | *' --no-shortcut' | *' --normalize' | *' --disc-blur' | *' --dry-run' | *' --offline' | *' --json' | *' -q' | *' --quiet' | *' -v' | *' --verbose' | *' --debug' | *' --compile' | *' --fsdp' | *' --greedy' | *' --allow-non-finite' | *' --all' | *' --no-cache') return 1 ;;
    *' --preset') words='tiny scale-2 scale-3 scale-4 small scale-6 vq-vae vq-vae-2 dvae palette f16-1024 f16-16384' ;;
    *' -o' | *' --out') suffixes='' ;;
    *' --kind') words='image segmentation depth pose edges' ;;
    *' --colours' | *' --pictures' | *' --above') suffixes='any' ;;
    *' --perceptual') words='lpips-vgg lpips-alex lpips-squeeze efficientnet-lite0 none' ;;
    *' --disc-augment') words='colour translation cutout' many='1' ;;
    *' --quantizer') words='ema vq simvq ibq fsq lfq' ;;
    *' --gradient') words='straight-through rotation' ;;
    *' --device') words='auto cpu cuda mps' ;;
    *' --precision') words='auto fp32 bf16 fp16' ;;
    *' --val' | *' --held-out') suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt' ;;
    *' --init' | *' --prior' | *' --codec' | *' --cond-ckpt') suffixes='.safetensors' ;;
    *' --train') words='all decoder' ;;
    *' --network') words='vqgan dvae vq-vae-2 palette' ;;
    *' --codebook') words='nearest gumbel fsq lfq' ;;
    *' --fsq-bound') words='tanh sigmoid' ;;
    *' --disc-loss') words='hinge vanilla' ;;
    *' --weights') suffixes='.pth .pt .safetensors' ;;
    *' --config') suffixes='.toml .json' ;;
    *' --cond') words='class image segmentation depth pose edges lowres coords none' many='1' ;;
    *' --arch') words='any-order modern published pixelsnail' ;;
    *' --level') words='single top bottom' ;;
    *' --complete') suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp' ;;
    *' --mask') words='upper-half' suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp' ;;
    *' --ckpt') words='builtin' suffixes='.safetensors' ;;
    *' --class-map') suffixes='.json' ;;
    *' --tokens') suffixes='.h5' ;;
    *' --npz') suffixes='.npz' ;;
    *' --keep') words='pixels codes' ;;
    *' --classifier') words='efficientnet-lite0 resnet50' ;;
    *' --speculate') words='auto off' ;;
    *' --to') words='compvis diffusers' ;;
    *' --model') words='deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large fcn_resnet50 fcn_resnet101 lraspp_mobilenet_v3_large' ;;
    *' --by') words='step images time' ;;
    *' --features') words='inception-v3-compat vgg16 dinov2 efficientnet-lite0' ;;
    *' --resize') words='tf1 clean' ;;
    *' --order') words='plan raster' ;;
    esac
}

# Sets what an argument may be; $1 is `command number`, counted from 0. Fails where the command takes none there.
_taming_value_of_argument() {
    case $1 in
    'decode 0' | 'tokens verify 0' | 'eval nll 1') suffixes='.h5' ;;
    'decode 1' | 'demo-data 0' | 'eval all 0') suffixes='' ;;
    'export 0' | 'eval rfid 0' | 'eval recon 0' | 'eval codebook 0' | 'eval nll 0') suffixes='.safetensors' ;;
    'info 0') suffixes='.ckpt .pkl .pt .pth .bin .safetensors .h5' ;;
    'guide 0') words='own-pictures conditions any-size comparisons evaluation several-gpus published-models settings security troubleshooting' ;;
    'presets show 0') words='tiny scale-2 scale-3 scale-4 small scale-6 vq-vae vq-vae-2 dvae palette f16-1024 f16-16384' ;;
    'eval fid 0' | 'eval fid 1' | 'eval is 0' | 'eval kid 0' | 'eval kid 1' | 'eval prc 0' | 'eval prc 1' | 'eval memorization 0') suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt .h5 .npz' ;;
    'eval memorization 1') suffixes='any' ;;
    'train-vqgan '* | 'tokenize '* | 'reconstruct '* | 'annotate segmentation '* | 'annotate depth '* | 'annotate pose '* | 'annotate edges '* | 'eval rfid '* | 'eval recon '*) suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt' ;;
    'train-prior '* | 'tokens merge '*) suffixes='.h5' ;;
    'import '*) suffixes='.ckpt .pkl .pt .pth .bin .safetensors' ;;
    'report '*) suffixes='' ;;
    'weights verify '* | 'weights fetch '*) words='efficientnet-lite0 vgg16 alexnet squeezenet1_1 inception-v3-compat deeplabv3_resnet50 keypointrcnn_resnet50_fpn dinov2 depth' ;;
    'eval codebook '*) suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt .h5' ;;
    *) return 1 ;;
    esac
}

# Sets the help of a command or a flag; $1 is `command word`.
_taming_help() {
    case $1 in
    'weights ls') help='List the weights that commands need: what each is for, its file, and where it is' ;;
    'weights verify') help='Verify the sha256 of weights on this machine' ;;
    'train-vqgan --size') help='Size of the training crops, in pixels. Default 128x128.' ;;
    'train-vqgan -o' | 'train-vqgan --out' | 'train-prior -o' | 'train-prior --out') help='Run folder. Default: the next number under runs/.' ;;
    'train-vqgan --batch-size') help='Pictures per step. Default 8.' ;;
    'train-vqgan --perceptual') help='Perceptual network; all but efficientnet-lite0 and none need a download. Default efficientnet-lite0. One of lpips-vgg, lpips-alex, lpips-squeeze, efficientnet-lite0, none.' ;;
    'train-vqgan --device' | 'train-prior --device') help='Device: auto, cpu, cuda, cuda:N or mps. Default auto.' ;;
    'train-vqgan --precision') help='Precision of the networks; losses and quantisation are in fp32. Default auto.' ;;
    'train-vqgan --workers') help='Processes that read pictures; 0: one thread. Default 0.' ;;
    'train-vqgan --cache') help='Memory for decoded pictures, in MiB. Default 1024.' ;;
    'train-prior --batch-size') help='Windows per step. Default 16.' ;;
    'train-prior --learning-rate') help='Peak learning rate. Default 0.002.' ;;
    'train-prior --betas') help='AdamW betas. Default 0.9,0.95.' ;;
    'train-prior --final-lr') help='Final learning rate as a fraction of the peak (cosine schedule). Default 0.05.' ;;
    'train-prior --clip') help='Gradient norm above which gradients are clipped; 0: never. Default 1.' ;;
    'train-prior --dropout') help='Dropout on embeddings and block outputs, and with --arch published on attention weights. Default 0.1.' ;;
    'train-prior --held') help='Fraction of the pictures that is held out. Default 0.05.' ;;
    'train-prior --precision') help='Precision of the network; weights and loss are in fp32. Default auto.' ;;
    'train-prior --init') help='Start from the weights and architecture of this prior.' ;;
    'sample --size') help='Size of the pictures in pixels. Default: the size of the condition map, or the training size.' ;;
    'sample --cond') help='Condition map, or a folder with one for each picture; KIND=FILE if the prior has several kinds. people.json:NAME selects the keypoints of one picture.' ;;
    'sample -o' | 'sample --out') help='Folder to write. Default: the next number under runs/sample/.' ;;
    'sample --codec') help='Codec with a fine-tuned decoder, instead of the prior'\''s own codec.' ;;
    'sample --seed') help='Random seed. The pictures do not depend on the batch size. Default 0.' ;;
    'sample --batch-size') help='Windows computed at once; affects memory and speed, not the pictures. Default 16.' ;;
    'sample --precision') help='auto: bf16 for priors with 1024 channels or more if the device supports it, else fp32. Default auto.' ;;
    'tokenize -o' | 'tokenize --out') help='Token file to write. Default: tokens.h5.' ;;
    'tokenize --size') help='Size of the pictures in pixels. Default: the codec'\''s training size.' ;;
    'tokenize --cond') help='Also encode a condition: its kind, and the folder of its maps, named like the pictures. The kinds edges, lowres and coords need no folder; they are computed from the pictures. lowres:4 is the picture at a quarter of its size, for super-resolution by 4.' ;;
    'tokenize --cond-ckpt') help='Codec of condition maps; its file records their kind. A prior'\''s file gives those of its conditions.' ;;
    'tokenize --batch-size') help='Pictures per batch. Default 16.' ;;
    'tokenize --shard') help='Write the I-th of N parts, tokens.I-of-N.h5, which `taming tokens merge` joins.' ;;
    'tokenize --memory') help='Memory for encoding one picture, recorded in the file. Default: 3, on every machine.' ;;
    'reconstruct -o' | 'reconstruct --out' | 'annotate segmentation -o' | 'annotate segmentation --out' | 'annotate depth -o' | 'annotate depth --out' | 'annotate pose -o' | 'annotate pose --out' | 'annotate edges -o' | 'annotate edges --out') help='Folder to write, if there is no argument OUT.' ;;
    'reconstruct --size' | 'eval recon --size' | 'eval codebook --size') help='Size of centre crops in pixels. Default: whole pictures.' ;;
    'reconstruct --pictures') help='Pictures of keypoint files that do not record picture sizes.' ;;
    'reconstruct --batch-size' | 'decode --batch-size') help='Pictures per batch. Default 8.' ;;
    'import -o' | 'import --out') help='Model file to write. Default: CHECKPOINT'\''s name with .safetensors, in the current folder.' ;;
    'import --config') help='The YAML file published with it; a prior needs it.' ;;
    'import --codec') help='Codec of a prior that was published without it: a model file of taming.' ;;
    'export -o' | 'export --out') help='The .ckpt file to write; for diffusers, a folder.' ;;
    'annotate depth --model') help='transformers depth model in safetensors format: a folder, or a name on the Hugging Face hub. Default depth-anything/Depth-Anything-V2-Small-hf.' ;;
    'tokens merge -o' | 'tokens merge --out') help='The token file to write.' ;;
    'info --config') help='The YAML file published with a checkpoint.' ;;
    'report -o' | 'report --out') help='The page to write. Default: report.html in the run folder; for several runs, in the current folder.' ;;
    'demo-data -n') help='Number of scenes. Default 200.' ;;
    'demo-data --size') help='Size of the pictures in pixels. Default 256x256.' ;;
    'demo-data --seed') help='Seed of the scenes. Default 0.' ;;
    'demo-data --kind') help='Draw only this kind.' ;;
    'demo-data --workers') help='Processes that draw. Default: depends on the number of scenes.' ;;
    'weights fetch --all') help='Everything that `taming weights ls` lists.' ;;
    'weights fetch -o' | 'weights fetch --out') help='Folder to write, such as $TAMING_WEIGHTS_DIR. Default: torch'\''s cache.' ;;
    'eval is --seed') help='Random seed of the assignment of pictures to splits. Default 2020.' ;;
    'eval kid --seed') help='Random seed of the subsets. Default 2020.' ;;
    'eval nll --stride') help='Columns that share a window; 1 is the published procedure. Default 1.' ;;
    'eval nll --sample-steps') help='With a prior for any order: read cells in the groups of so many steps; 0: one cell at a time. Default 0.' ;;
    *' train-vqgan') help='Train a codec on pictures' ;;
    *' train-prior') help='Train a prior on token files' ;;
    *' sample') help='Draw new pictures' ;;
    *' tokenize') help='Encode pictures to a token file' ;;
    *' reconstruct') help='Encode and decode pictures (or condition maps), each at its own size, and print the mean PSNR' ;;
    *' decode') help='Decode a token file to pictures' ;;
    *' import') help='Convert a published checkpoint to a model file' ;;
    *' export') help='Write a model file in the layout of another program' ;;
    *' annotate') help='Compute condition maps of pictures, as PNGs of the same size and relative path' ;;
    *' tokens') help='Check and join token files' ;;
    *' info') help='Describe a file: a model, tokens, or a published checkpoint' ;;
    *' report') help='Write the report of a run, or a comparison of several runs, as one HTML page' ;;
    *' demo-data') help='Draw a small data set of landscapes and figures, with segmentation, depth and pose maps and classes' ;;
    *' doctor') help='Check versions, devices, precision, weights, folders and settings' ;;
    *' guide') help='List the guides, or print one' ;;
    *' presets') help='List and print the named sets of settings' ;;
    *' weights') help='List, verify and download pretrained weights' ;;
    *' eval') help='Measure pictures, codecs and priors' ;;
    *' segmentation') help='Label maps by a torchvision network (by default DeepLabV3, 21 labels), with labels.txt beside them' ;;
    *' depth') help='16-bit depth maps by a transformers model (pip install '\''taming[annotate]'\''), each scaled to its own range' ;;
    *' pose') help='Skeletons of the people in the pictures, on black, by torchvision'\''s keypoint R-CNN' ;;
    *' edges') help='White Canny edges on black, as `tokenize --cond edges` computes them' ;;
    *' verify') help='Read all of a token file and check its checksums, ranges and counts' ;;
    *' merge') help='Join token files into one' ;;
    *' ls') help='List the presets' ;;
    *' show') help='Print all settings of a preset, as a file for --config' ;;
    *' fetch') help='Download and verify weights' ;;
    *' fid') help='Frechet distance between two sets of pictures' ;;
    *' is') help='Inception score of pictures, with its standard deviation over splits' ;;
    *' kid') help='Kernel distance between two sets of pictures, with its standard deviation over subsets' ;;
    *' prc') help='Improved precision and recall of generated pictures; first published with --features vgg16' ;;
    *' rfid') help='Frechet distance between pictures and their reconstructions, which are not written to disk' ;;
    *' recon') help='PSNR, SSIM, L1, perceptual distance and bits/pixel of reconstructions; -o also writes the best and worst' ;;
    *' codebook') help='Codebook use: codes that occur, their perplexity, codes that never occur; -o also writes a histogram' ;;
    *' nll') help='nats/token and bits/dim of a token file'\''s codes under a prior, by class; -o also writes a map by position' ;;
    *' memorization') help='Whether samples repeat training pictures: how near they are to them, compared with held-out pictures' ;;
    *' all') help='Every measure that applies to a run, on held-out data' ;;
    *' --version') help='Print the version and exit.' ;;
    *' -h' | *' --help') help='Show this message and exit.' ;;
    *' --preset') help='Named set of settings: tiny, scale-2, scale-3, scale-4, small, scale-6, vq-vae, vq-vae-2, dvae, palette, f16-1024, f16-16384. Default: tiny on a CPU, small on a GPU.' ;;
    *' --scale') help='Size of the training, 1 (tiny) to 6: each has about 3 times the operations of the last.' ;;
    *' --minutes') help='Wall-clock time in minutes; 0: no limit. Default 8.' ;;
    *' --steps') help='Number of optimiser steps; 0: no limit. Default 0.' ;;
    *' --size') help='First centre-crop and resize all pictures to this size. Default: keep their sizes.' ;;
    *' -o' | *' --out') help='Also write the result and its pictures to this folder.' ;;
    *' --name') help='Name of the run under runs/. Default: the next number.' ;;
    *' --resume') help='Continue the newest run, or the one given by --name or -o.' ;;
    *' -0' | *' --null') help='Paths on stdin end with NUL, as `find -print0` writes them.' ;;
    *' --kind') help='Kind of the files: pictures, or the maps of a condition. Default image. One of image, segmentation, depth, pose, edges.' ;;
    *' --labels') help='Number of labels of segmentation maps; 0: the largest label that occurs, plus one. Default 0.' ;;
    *' --unlabelled') help='255 marks unlabelled pixels of segmentation maps; they become label 0, and other labels increase by 1.' ;;
    *' --colours') help='Colour table of segmentation maps in true colour: one line `#rrggbb name` per label.' ;;
    *' --label-values') help='Pixel values of segmentation maps that become labels 0, 1, 2 and so on; for masks, 0,255.' ;;
    *' --missing') help='Values that mark missing pixels of depth maps, like 0,65535 or nan; replaced by the nearest measured value.' ;;
    *' --depth-range') help='Percentiles of a depth map that are mapped to -1 and 1; 2,98 ignores outliers. Default 0.0,100.0.' ;;
    *' --pictures') help='Pictures of keypoint files that do not record picture sizes; paired by name.' ;;
    *' --batch-size') help='Pictures per batch. Default 32.' ;;
    *' --accumulate') help='Split each batch into this many parts and accumulate their gradients. Default 1.' ;;
    *' --gradient-checkpointing') help='Recompute activations in the backward pass: less memory, a third slower.' ;;
    *' --learning-rate') help='Peak learning rate of the codec. Default 0.0003.' ;;
    *' --disc-learning-rate') help='Peak learning rate of the discriminator. Default 0.0002.' ;;
    *' --betas') help='Adam betas. Default 0.5,0.9.' ;;
    *' --warmup') help='Steps of linear learning-rate warm-up. Default 50.' ;;
    *' --final-lr') help='Final learning rate as a fraction of the peak (cosine schedule). Default 0.02.' ;;
    *' --disc-final-lr') help='Final learning rate of the discriminator as a fraction of its peak; 1: constant. Default 1.' ;;
    *' --clip') help='Gradient norm of the codec above which gradients are clipped; 0: never. Default 1.' ;;
    *' --ema') help='Decay of the moving average of the weights; 0: none. Default 0.998.' ;;
    *' --l1-weight') help='Weight of the L1 loss. Default 1.' ;;
    *' --l2-weight') help='Weight of the L2 loss; with a larger weight, large areas and colours are learned sooner. Default 2.' ;;
    *' --perceptual') help='Perceptual network: lpips-vgg, lpips-alex, efficientnet-lite0 or none. Default efficientnet-lite0.' ;;
    *' --perceptual-weight') help='Weight of the perceptual loss. Default 0.2.' ;;
    *' --logits-weight') help='Weight of the squared difference of class logits of efficientnet-lite0; try 0.001. 0: none. Default 0.' ;;
    *' --codebook-weight') help='Weight of the codebook and commitment losses. Default 1.' ;;
    *' --beta') help='Weight of the commitment loss relative to the codebook loss. Default 0.25.' ;;
    *' --legacy') help='Apply beta to the codebook loss instead, as the published code did.' ;;
    *' --kl-weight') help='With --codebook gumbel: weight of the mean KL divergence of a cell'\''s code from uniform. Default 0.0005.' ;;
    *' --kl-ramp') help='Fraction of the training over which this weight grows from 0 (half a cosine). Default 0.1.' ;;
    *' --relaxation') help='With --codebook gumbel: temperature at which codes are sampled in training, at the start and after --relaxation-ramp. Default 1:0.0625.' ;;
    *' --relaxation-ramp') help='Fraction of the training over which the temperature changes (half a cosine). Default 0.5.' ;;
    *' --disc-weight') help='Weight of the adversarial loss, multiplied by the adaptive weight. Default 0.2.' ;;
    *' --disc-train-start') help='Fraction of the training after which the discriminator starts to train. Default 0.3.' ;;
    *' --disc-start') help='Fraction of the training after which the adversarial loss is applied. Default 0.4.' ;;
    *' --disc-ramp') help='Fraction of the training over which the adversarial loss grows to its full weight. Default 0.1.' ;;
    *' --lecam-weight') help='Weight of the discriminator'\''s LeCam regularisation, for few pictures; 0: none. Default 0.' ;;
    *' --disc-augment') help='Random changes of what the discriminator sees, for few pictures: of brightness, saturation and contrast, of the position, and a hole; a picture and its reconstruction are changed alike. One of colour, translation, cutout.' ;;
    *' --quantizer') help='How the codebook learns: by moving averages (ema), by its own loss (vq, as published), as a linear map of fixed entries (simvq), by the gradient of all entries (ibq); fsq and lfq have a fixed grid of codes. Default ema. One of ema, vq, simvq, ibq, fsq, lfq.' ;;
    *' --quantize-start') help='Fraction of the training after which codes are used; before, the decoder reads the encoder'\''s vectors. Default 0.' ;;
    *' --gradient') help='With ema, vq and simvq: how the gradient of the decoder passes through the quantizer: unchanged, or by the rotation from vector to entry. Default straight-through. One of straight-through, rotation.' ;;
    *' --entropy-weight') help='With ibq and lfq: weight of the entropy of each cell'\''s code minus that of all codes of a batch. Default 0.1.' ;;
    *' --entropy-temperature') help='With ibq and lfq: temperature of the logits whose entropy is measured. Default 0.01.' ;;
    *' --codebook-decay') help='Decay of the moving averages of the ema quantizer. Default 0.9.' ;;
    *' --revive') help='Replace entries used less than this fraction of the mean use; 0: never, as published. Default 0.1.' ;;
    *' --crop-scale') help='Smallest and largest area of a training crop, as fractions of the largest crop. Default 0.4,1.0.' ;;
    *' --flip') help='Mirror half of the training crops. On by default.' ;;
    *' --no-flip') help='Turn --flip off.' ;;
    *' --held') help='Fraction of the pictures that is held out, unless --val is given. Default 0.05.' ;;
    *' --val-every') help='Fraction of the training between two validations. Default 0.1.' ;;
    *' --val-images') help='Held-out pictures used in each validation. Default 64.' ;;
    *' --save-every') help='Minutes between two saves, besides those at each validation. Default 5.' ;;
    *' --snapshots') help='Keep the model of each validation, as checkpoints/step_*.safetensors.' ;;
    *' --tensorboard') help='Also write event files for TensorBoard; needs tensorboardX.' ;;
    *' --seed') help='Random seed. Default 0.' ;;
    *' --device') help='auto, cpu, cuda, cuda:N or mps. Default auto.' ;;
    *' --precision') help='Floating-point precision of the networks. Default fp32.' ;;
    *' --workers') help='Threads that read pictures. Default 2.' ;;
    *' --cache') help='Cache the statistics of reference pictures. On by default.' ;;
    *' --val') help='Held-out pictures: a folder, file, archive or list of paths.' ;;
    *' --init') help='Start from the weights and architecture of this codec.' ;;
    *' --train') help='Parts to train; `decoder` keeps encoder and codebook, so that existing tokens and priors stay valid. Default all.' ;;
    *' --perturb') help='With --train decoder: replace the codes of random cells before they are decoded, in each picture a fraction between 0 and this one; 0: none. Default 0.' ;;
    *' --prior') help='With --perturb: draw the replaced codes from this prior, given the other cells; by default, they are near entries of the codebook.' ;;
    *' --network') help='vqgan: the network of the paper; dvae: that of DALL-E'\''s discrete VAE, with --codebook gumbel and, as its reconstruction loss, the likelihood of the pixels; vq-vae-2: two levels of codes, f4 and f8; palette: none, each code is a colour, found by k-means. Default vqgan. One of vqgan, dvae, vq-vae-2, palette.' ;;
    *' --ch') help='Channels at full resolution; a multiple of --norm-groups. Default 32.' ;;
    *' --decoder-ch') help='Channels of the decoder at full resolution; 0: as --ch. Default 0.' ;;
    *' --ch-mult') help='Channel multiplier of each level; n levels downsample by 2^(n-1). Default 1,2,4.' ;;
    *' --patch-size') help='Side of the squares of pixels that the first layer reads, and the last one writes, as channels. It multiplies f, and saves the computation at full resolution. Default 2.' ;;
    *' --shortcut') help='Add a linear map from the pixels of a cell to its vector beside the encoder: colours are learned sooner. On by default.' ;;
    *' --no-shortcut') help='Turn --shortcut off.' ;;
    *' --num-res-blocks') help='Residual blocks per level; the decoder has one more. Default 1.' ;;
    *' --n-res-channel') help='With --network vq-vae-2: channels between the two convolutions of a residual block. Default 32.' ;;
    *' --norm-groups') help='Groups of each GroupNorm (published: 32). Fewer than 4 channels per group remove colour information. Default 8.' ;;
    *' --attn-resolutions') help='Nominal sizes of the levels with attention: --resolution divided by --patch-size times 1, 2, 4 and so on. Default 16.' ;;
    *' --z-channels') help='Channels between encoder and quantizer. Default 64.' ;;
    *' --resolution') help='Nominal side of a picture, which determines the levels with attention. Default 128.' ;;
    *' --dropout') help='Dropout in the residual blocks. Default 0.' ;;
    *' --codebook-size') help='Number of codebook entries, K. Default 1024.' ;;
    *' --codebook-dim') help='Dimension of each codebook entry, D. Default 8.' ;;
    *' --codebook') help='nearest: a code is the nearest entry; gumbel: the largest of K logits; fsq, lfq: each channel is rounded to one of a few levels, or to its sign (see --quantizer). Default nearest. One of nearest, gumbel, fsq, lfq.' ;;
    *' --fsq-levels') help='With fsq: levels of each channel, whose product is K; by default those published for a K near --codebook-size.' ;;
    *' --fsq-bound') help='With fsq: bounds a channel before it is rounded; sigmoid makes a normal variable nearly uniform (iFSQ). Default tanh.' ;;
    *' --normalize') help='Normalise codebook entries and encoder outputs to unit length (cosine distance).' ;;
    *' --disc-ndf') help='Channels of the first layer of the discriminator. Default 32.' ;;
    *' --disc-num-layers') help='Strided layers of the discriminator; patches are 34 x 34 pixels with 2, 70 x 70 with 3. Default 2.' ;;
    *' --disc-loss') help='Adversarial loss. Default hinge.' ;;
    *' --disc-blur') help='Blur the input of each strided layer, against aliasing.' ;;
    *' --nproc') help='Processes on this machine that share each batch, each on its own GPU. Default 1.' ;;
    *' --dry-run') help='Print what would be done, and write nothing.' ;;
    *' --device-name') help='With --dry-run: estimate the time on another device: h200, h100, a100, l40s, l4, rtx5090, rtx4090, rtx3090.' ;;
    *' --weights') help='Pretrained weights: a file, or a folder of files.' ;;
    *' --offline') help='Never download anything.' ;;
    *' --config') help='TOML or JSON file of settings.' ;;
    *' --max-pixels') help='Skip pictures with more pixels than this. Default 178956970.' ;;
    *' --json') help='Print the result as JSON.' ;;
    *' -q' | *' --quiet') help='Print only the resulting path or number.' ;;
    *' -v' | *' --verbose') help='Print all settings with their origins, and each choice made.' ;;
    *' --debug') help='Print the traceback of an error.' ;;
    *' --codec') help='The codec, if it is not at the recorded path.' ;;
    *' --cond-ckpt') help='A condition'\''s codec, if it is not at the recorded path.' ;;
    *' --compile') help='Compile the transformer blocks (torch.compile): steps in bf16 are about 1.4 times as fast on a CPU, after a minute of preparation. Needs a C++ compiler.' ;;
    *' --fsdp') help='Shard weights, gradients and optimiser across the processes (FSDP2), for priors that do not fit on one GPU.' ;;
    *' --weight-decay') help='Weight decay of AdamW, on the weights of linear layers only. Default 0.05.' ;;
    *' --pkeep') help='Probability of keeping an input code; others are replaced by random codes. Targets stay. Default 1.' ;;
    *' --condition-dropout') help='Probability of dropping all conditions of a picture, and of dropping each one of several. Guidance needs a value above 0. Default 0.1.' ;;
    *' --cond') help='Conditions of the token files to train on; `none`: without conditions. Default: all of them.' ;;
    *' --val-windows') help='Held-out windows used in each validation. Default 512.' ;;
    *' --patience') help='Number of validations without improvement after which training stops; 0: never. Default 0.' ;;
    *' --samples') help='Pictures drawn at each validation; 0: none. Default 16.' ;;
    *' --arch') help='any-order: groups of cells are drawn at once, in any order; modern: one cell after another, in raster order, with RMSNorm, SwiGLU, 2-D rotary positions and query/key norm; published: as modern, with learned positions, LayerNorm and GELU; pixelsnail: in raster order, causal convolutions with attention, pictures of one size. Default any-order. One of any-order, modern, published, pixelsnail.' ;;
    *' --level') help='With a codec of two levels of codes, the one to model: top, or bottom, which follows from the top one. Default single.' ;;
    *' --n-layer') help='Transformer blocks, or blocks of --arch pixelsnail. Default 4.' ;;
    *' --n-head') help='Attention heads. Default 4.' ;;
    *' --n-embd') help='Width of the network; a multiple of --n-head. Default 256.' ;;
    *' --window') help='Context of the prior, in cells; reduced to the grid of the token files where that is smaller. Default 16x16.' ;;
    *' --reach') help='With --arch any-order: distance in cells at which cells see one another; the first ones are seen from afar. Default 10.' ;;
    *' --res-blocks') help='With --arch pixelsnail: causal residual blocks before each attention. Default 4.' ;;
    *' --kernel') help='With --arch pixelsnail: side of the causal kernels, an odd number. Default 5.' ;;
    *' -n') help='Number of pictures. Default 1.' ;;
    *' --class') help='Class to draw: its name, '\''#N'\'' for class number N from 0, or N if classes have no names. Default: any class.' ;;
    *' --complete') help='Complete this picture; a larger --size extends it.' ;;
    *' --mask') help='Mask: white parts are drawn; `upper-half` keeps the upper half of the picture.' ;;
    *' --redraw') help='With --complete SAMPLE: redraw the white parts of a picture that sample drew; its other codes stay.' ;;
    *' --at') help='Upper left corner of the picture within a larger --size. Default: centred.' ;;
    *' --ckpt') help='Model file or run. Default: $TAMING_CKPT, else the newest run, else `builtin`.' ;;
    *' --above') help='With a prior of the bottom level of codes: the prior of the top level.' ;;
    *' --class-map') help='JSON that maps the prior'\''s classes to the classifier'\''s, if names differ.' ;;
    *' --first') help='Number of the first sample: --first 17 -n 1 draws sample 17 alone. Default 0.' ;;
    *' --tokens') help='Also write the codes, as a token file.' ;;
    *' --npz') help='Also write the pictures as one array, in the ADM suite'\''s format.' ;;
    *' --temperature') help='Temperature of the logits: less variety below 1, more above 1. X:Y, with a prior for any order: from X in the first step to Y in the last. Default 1.' ;;
    *' --top-k') help='Sample from the k most likely codes; 0: all. Default 0.' ;;
    *' --top-p') help='Sample from the smallest set of codes with at least this total probability; 1: all. Default 1.' ;;
    *' --min-p') help='Sample from codes at least this fraction as likely as the most likely one; 0: all. Default 0.' ;;
    *' --guidance') help='Classifier-free guidance: unconditional + guidance x (conditional - unconditional); 1: off. X:Y as with --temperature. Default 1.' ;;
    *' --greedy') help='Always choose the most likely code.' ;;
    *' --candidates') help='With --complete: completions drawn per picture; the one that best fits the part below it is kept. Default 1.' ;;
    *' --keep') help='With --complete: `pixels` keeps the known pixels and matches the colours of the new ones to them; `codes` keeps the known codes and decodes the whole picture. Default pixels.' ;;
    *' --accept-rate') help='Rejection sampling: draw n / rate pictures and keep the n in which --classifier finds the class with the highest probability; 1: keep all. Default 1.' ;;
    *' --classifier') help='Classifier for --accept-rate: efficientnet-lite0 (no download), or one of torchvision'\''s, such as resnet50. Default efficientnet-lite0.' ;;
    *' --stride') help='Columns that share a window: 1 is the paper'\''s procedure, more is faster; 0: half the window. Default 0.' ;;
    *' --speculate') help='With a raster prior: guess the next codes, and draw up to N codes of a window in one forward pass; N is 2 to 64. `auto` adapts N, `off` draws code by code. The pictures are the same, up to rounding. Default auto.' ;;
    *' --sample-steps') help='With a prior for any order: forward passes per picture, one after the other; fewer are faster. Default 32.' ;;
    *' --shard') help='Process only every N-th picture, starting with the I-th.' ;;
    *' --memory') help='Memory for one picture; a picture that fits is decoded exactly. Default: half of the free memory.' ;;
    *' --views') help='Views of each picture: the centre crop, its mirror image, random crops. Default 1.' ;;
    *' --allow-non-finite') help='Accept weights that are NaN or infinite.' ;;
    *' --to') help='The layout: that of the published code, or diffusers'\'' VQModel. Default compvis.' ;;
    *' --model') help='torchvision segmentation network: deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large, fcn_resnet50, fcn_resnet101 or lraspp_mobilenet_v3_large. Default deeplabv3_resnet50.' ;;
    *' --score') help='Draw persons with a higher probability than this. Default 0.75.' ;;
    *' --joint-score') help='Draw joints with a higher heatmap logit than this; a lower value includes hidden joints. Default 2.' ;;
    *' --by') help='Horizontal axis of the charts of several runs. Default: step, or images if batch sizes differ.' ;;
    *' --count') help='Number of scenes. Default 200.' ;;
    *' --all') help='Include torchvision'\''s other networks.' ;;
    *' --features') help='Feature network. Only scores with inception-v3-compat are called FID, IS or KID. efficientnet-lite0 needs no download. Default inception-v3-compat. One of inception-v3-compat, vgg16, dinov2, efficientnet-lite0.' ;;
    *' --resize') help='Resizing to the network'\''s input: tf1 (bilinear, as for the published FID) or clean (bicubic, clean-fid). Default tf1.' ;;
    *' --no-cache') help='Turn --cache off.' ;;
    *' --splits') help='Number of splits whose scores are averaged. Default 10.' ;;
    *' --subsets') help='Number of random subsets whose distances are averaged. Default 100.' ;;
    *' --subset-size') help='Pictures of each side in a subset. Default 1000.' ;;
    *' --neighbours') help='k: each feature'\''s sphere reaches its k-th nearest neighbour. Default 3.' ;;
    *' --order') help='With a prior for any order: that of sampling, or raster order. Default plan.' ;;
    *' --held-out') help='Pictures that were not trained on. Default: those that the prior held out.' ;;
    esac
}

# Sets what flag $2 of the command may be; fails where it has no such flag, or none that takes a value.
_taming_takes() {
    words= keys= suffixes=none many= bare=1
    [[ " ${flags//[,+]/ } " == *" $2 "* ]] && _taming_value_of_flag "$1 $2"
}

# Adds to `given` the flags in word $2. Sets `open` to the one whose value is still to come, or `inside` to the one whose
# value is in the word already, and `behind` to what of the word stands before that. Short flags may stand together:
# -qn 4, -qn4.
_taming_open() {
    local word=$2 place
    open= inside= behind=
    if [[ $word == --* ]]; then
        given="$given ${word%%=*}"
        if [[ $word == *=* ]]; then
            _taming_takes "$1" "${word%%=*}" && inside=${word%%=*} behind=${word%%=*}=
        else
            _taming_takes "$1" "$word" && open=$word
        fi
    else
        for ((place = 1; place < ${#word}; place++)); do
            given="$given -${word:place:1}"
            if _taming_takes "$1" "-${word:place:1}"; then
                open=-${word:place:1}
                [[ place+1 -lt ${#word} ]] && inside=$open open= behind=${word:0:place + 1}
                return
            fi
        done
    fi
}

# Adds those of the words $3... that begin with $1, each with $2 in front.
_taming_words() {
    local each typed=$1 before=$2
    shift 2
    for each; do
        [[ $each == "$typed"* ]] && replies[${#replies[@]}]=$before$each
    done
}

# Adds the folders that begin with $1, and the files whose names end in one of the words $3..., each with $2 in front;
# where there are none of either, all files.
_taming_files() {
    local each suffix typed=$1 before=$2 known=$'\n' others insensitive
    shift 2
    files=1 others=()
    [[ $quoted == \\ ]] && printf -v typed %q "$typed" # compgen takes the quotes off again
    while IFS= read -r each; do
        known=$known$each$'\n' replies[${#replies[@]}]=$before$each
    done < <(compgen -d -- "$typed")
    [[ $# -eq 0 ]] && return
    shopt -q nocasematch
    insensitive=$?
    shopt -s nocasematch
    while IFS= read -r each; do
        [[ $known == *$'\n'"$each"$'\n'* ]] && continue
        others[${#others[@]}]=$before$each
        for suffix; do
            if [[ $suffix == any || $each == *"$suffix" ]]; then
                replies[${#replies[@]}]=$before$each
                break
            fi
        done
    done < <(compgen -f -- "$typed")
    [[ insensitive -eq 0 ]] || shopt -u nocasematch
    [[ ${#replies[@]} -gt 0 ]] || replies=("${others[@]}")
}

# Adds what completes $1 to a value, as the tables have just set it, each with $2 in front.
_taming_value() {
    local typed=$1 before=$2 each given
    if [[ -n $keys && $typed == *=* ]]; then
        _taming_files "${typed#*=}" "$before${typed%%=*}=" $suffixes
        return
    fi
    given=${typed%"${typed##*,}"}
    [[ -n $many ]] || given=
    for each in $words; do
        [[ ,$given == *",$each,"* ]] || _taming_words "${typed#"$given"}" "$before$given" "$each"
    done
    for each in $keys; do
        _taming_words "$typed" "$before" "$each="
    done
    [[ $suffixes == none || -z $bare ]] || _taming_files "$typed" "$before" $suffixes
    unspaced=$many
}

# Adds the flags that begin with $1, but those that are among the words $given and may not be repeated.
_taming_flags() {
    local group spelling needless
    for group in $flags; do
        needless=
        for spelling in ${group//,/ }; do
            [[ " $given " == *" $spelling "* ]] && needless=1
        done
        [[ -n $needless ]] || { group=${group#+} && _taming_words "$1" '' ${group//,/ }; }
    done
}

# Sets `typed` to the words up to the cursor as they were typed: bash has taken them apart at = and : too.
_taming_typed() {
    local rest=${COMP_LINE:0:COMP_POINT} trimmed word last= place
    typed=()
    for ((place = 0; place <= COMP_CWORD; place++)); do
        word=${COMP_WORDS[place]}
        trimmed=${rest#"${rest%%[![:space:]]*}"}
        [[ place -eq COMP_CWORD ]] && word=$trimmed
        if [[ place -gt 0 && $trimmed == "$rest" && -n $word && "${last: -1}${word:0:1}" == *[=:]* ]]; then
            typed[${#typed[@]} - 1]=${typed[${#typed[@]} - 1]}$word
        else
            typed[${#typed[@]}]=$word
        fi
        rest=${trimmed#"$word"} last=$word
    done
}

# Sets `current` to the word $1 without its quotes, `quoted` to the first of these, and `kept` to what readline leaves of
# the word in its place and does not want in the replies: all up to a quote, else up to the last = or : that no backslash
# quotes.
_taming_plain() {
    local masked=${1//\\?/__} breaks= head
    [[ ${COMP_WORDBREAKS-} == *=* ]] && breaks==
    [[ ${COMP_WORDBREAKS-} == *:* ]] && breaks=$breaks:
    if [[ $masked == *[\"\']* ]]; then
        head=${masked%%[\"\']*}
        quoted=${1:${#head}:1}
        kept=${1:0:${#head}}
        kept=${kept//\\/} current=${kept//\\/}${1:${#head} + 1}
        return
    fi
    head=
    [[ $1 == *\\* ]] && quoted=\\
    [[ -n $breaks && $masked == *[$breaks]* ]] && head=${masked%"${masked##*[$breaks]}"}
    kept=${1:0:${#head}}
    kept=${kept//\\/} current=${1//\\/}
}

# Replies, in the form that readline wants. bash 3.2 cannot be told what the replies are, so there quotes,
# slashes and spaces are put where they belong.
_taming_reply() {
    local each path reply
    for each in "${replies[@]}"; do
        [[ $each == *= ]] && unspaced=1
        COMPREPLY[${#COMPREPLY[@]}]=${each#"$kept"}
    done
    if type -t compopt >/dev/null; then
        [[ -n $files ]] && compopt -o filenames 2>/dev/null
        [[ -n $unspaced ]] && compopt -o nospace 2>/dev/null
        return
    fi
    for ((each = 0; each < ${#COMPREPLY[@]}; each++)); do
        path=${COMPREPLY[each]}
        reply=$path
        [[ -n $files && $quoted != [\"\'] ]] && printf -v reply %q "$path"
        [[ $path == '~'* ]] && reply=${reply#\\} path=$HOME${path#'~'}
        if [[ -n $files && -d $path ]]; then
            reply=$reply/
        elif [[ -z $unspaced && $quoted != [\"\'] ]]; then
            reply="$reply "
        fi
        COMPREPLY[each]=$reply
    done
}

# Puts the help of each reply behind it, for the list that readline is about to show. $1 is the command.
_taming_explain() {
    local each widest=0 help
    for each in "${COMPREPLY[@]}"; do
        [[ ${#each} -gt widest ]] && widest=${#each}
    done
    for ((each = 0; each < ${#COMPREPLY[@]}; each++)); do
        help=
        _taming_help "$1 ${COMPREPLY[each]}"
        printf -v help "%-${widest}s  %s" "${COMPREPLY[each]}" "$help"
        COMPREPLY[each]=${help:0:${COLUMNS:-80} - 1}
    done
}

_taming() {
    local IFS=$' \t\n' command= commands= flags= arguments= words keys suffixes many bare
    local typed given= open= inside behind ended= count=0 place word current kept quoted= earlier replies files= unspaced= explained=
    replies=() COMPREPLY=()
    _taming_typed
    _taming_command ''
    for ((place = 1; place < ${#typed[@]} - 1; place++)); do
        word=${typed[place]}
        if [[ -n $open ]]; then
            open=
        elif [[ -z $ended && $word == -- ]]; then
            ended=1
        elif [[ -z $ended && $word == -?* ]]; then
            _taming_open "$command" "$word"
        elif [[ -z $commands ]]; then
            count=$((count + 1))
        elif [[ " $commands " == *" $word "* ]]; then
            command=${command:+$command }$word given=
            _taming_command "$command"
        else
            return
        fi
    done
    word=${typed[${#typed[@]} - 1]}
    _taming_plain "$word"
    if [[ -n $open ]]; then
        _taming_takes "$command" "$open" && _taming_value "$current" ''
    elif [[ -z $ended && $current == -* ]]; then
        earlier=$given
        _taming_open "$command" "$current"
        given=$earlier
        if [[ -n $inside ]]; then
            _taming_takes "$command" "$inside" && _taming_value "${current#"$behind"}" "$behind"
        else
            _taming_flags "$current"
            explained=1
        fi
    elif [[ -n $commands ]]; then
        _taming_words "$current" '' $commands
        explained=1
    elif words= keys= suffixes=none many= bare=1 && _taming_value_of_argument "$command $count"; then
        _taming_value "$current" ''
    elif [[ -z $current ]]; then
        _taming_flags ''
        explained=1
    fi
    _taming_reply
    [[ -n $explained && ${COMP_TYPE-} == 63 && ${#COMPREPLY[@]} -gt 1 ]] && _taming_explain "$command"
}

if type -t compopt >/dev/null; then
    complete -F _taming taming
else
    complete -o nospace -F _taming taming
fi
