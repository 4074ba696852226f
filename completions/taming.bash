# Completions of taming for bash, 3.2 or newer; nothing else is needed.
# Made by scripts/completions from the commands of taming: run that again instead of changing this.

# Sets what the command $1 has: its commands, its flags (commas between the spellings of one, + before one that may be
# repeated).
_taming_command() {
    case $1 in
    '') commands='train-vqgan tokenize reconstruct decode train-prior sample import export info demo-data report doctor annotate eval tokens presets weights' flags='--version -h,--help' ;;
    'train-vqgan') commands='' flags='--preset --config -o,--out --name --resume -0,--null --weights --offline --dry-run --nproc --json -q,--quiet --debug --kind --labels --unlabelled --colours --label-values --missing --depth-range --pictures --size --steps --minutes --batch-size --accumulate --gradient-checkpointing --learning-rate --disc-learning-rate --betas --warmup --final-lr --disc-final-lr --clip --ema --l1-weight --l2-weight --perceptual --perceptual-weight --codebook-weight --beta --legacy --disc-weight --disc-train-start --disc-start --disc-ramp --quantizer --codebook-decay --revive --crop-scale --flip,--no-flip --held --val-every --val-images --save-every --snapshots --tensorboard --seed --device --precision --workers --cache --val --init --train --ch --ch-mult --num-res-blocks --norm-groups --attn-resolutions --z-channels --resolution --dropout --codebook-size --codebook-dim --normalize --disc-ndf --disc-num-layers --disc-loss -v,--verbose --max-pixels -h,--help' ;;
    'tokenize') commands='' flags='--ckpt -o,--out --size --views +--cond +--cond-ckpt -0,--null --shard --batch-size --device --precision --memory --workers --config --dry-run --json -q,--quiet --debug -v,--verbose --max-pixels -h,--help' ;;
    'reconstruct') commands='' flags='--ckpt -o,--out --size --pictures --batch-size --device --precision --memory --workers --shard --config --dry-run --json -q,--quiet --debug -v,--verbose --max-pixels -h,--help' ;;
    'decode') commands='' flags='--codec --batch-size --device --precision --memory --shard --config --dry-run --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'train-prior') commands='' flags='--codec +--cond-ckpt --preset --config -o,--out --name --resume --dry-run --nproc --json -q,--quiet --debug --steps --minutes --batch-size --accumulate --gradient-checkpointing --fsdp --learning-rate --betas --weight-decay --warmup --final-lr --clip --ema --dropout --pkeep --condition-dropout --cond --held --val-every --val-windows --patience --save-every --snapshots --samples --tensorboard --seed --device --precision --init --arch --n-layer --n-head --n-embd --window -v,--verbose -h,--help' ;;
    'sample') commands='' flags='-n --class --size +--cond --complete --mask --at --ckpt -o,--out --codec --class-map --weights --offline --name --first --tokens --npz --shard --config --device --precision --memory --dry-run --json -q,--quiet --debug --temperature --top-k --top-p --min-p --guidance --greedy --seed --candidates --keep --accept-rate --classifier --stride --batch-size -v,--verbose --max-pixels -h,--help' ;;
    'import') commands='' flags='--config -o,--out --allow-non-finite --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'export') commands='' flags='-o,--out --to --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'info') commands='' flags='--config --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'demo-data') commands='' flags='-n,--count --size --seed --kind --workers --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'report') commands='' flags='-o,--out --by --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'doctor') commands='' flags='--json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'guide') commands='' flags='--json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'annotate') commands='segmentation depth pose edges' flags='-h,--help' ;;
    'annotate segmentation') commands='' flags='-o,--out --shard --weights --offline --device --workers --config --dry-run --json -q,--quiet --debug --model -v,--verbose --max-pixels -h,--help' ;;
    'annotate depth') commands='' flags='-o,--out --shard --weights --offline --device --workers --config --dry-run --json -q,--quiet --debug --model -v,--verbose --max-pixels -h,--help' ;;
    'annotate pose') commands='' flags='-o,--out --shard --weights --offline --device --workers --config --dry-run --json -q,--quiet --debug --score --joint-score -v,--verbose --max-pixels -h,--help' ;;
    'annotate edges') commands='' flags='-o,--out --shard --workers --config --dry-run --json -q,--quiet --debug -v,--verbose --max-pixels -h,--help' ;;
    'eval') commands='fid is kid prc rfid recon codebook nll all' flags='-h,--help' ;;
    'eval fid') commands='' flags='--codec --weights --offline -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug --features --resize --size --cache,--no-cache -v,--verbose --max-pixels -h,--help' ;;
    'eval is') commands='' flags='--codec --weights --offline -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug --features --resize --size --cache,--no-cache --splits --seed -v,--verbose --max-pixels -h,--help' ;;
    'eval kid') commands='' flags='--codec --weights --offline -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug --features --resize --size --cache,--no-cache --subsets --subset-size --seed -v,--verbose --max-pixels -h,--help' ;;
    'eval prc') commands='' flags='--codec --weights --offline -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug --features --resize --size --cache,--no-cache --neighbours -v,--verbose --max-pixels -h,--help' ;;
    'eval rfid') commands='' flags='--weights --offline -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug --features --resize --size --cache,--no-cache -v,--verbose --max-pixels -h,--help' ;;
    'eval recon') commands='' flags='--size --perceptual --weights --offline -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug -v,--verbose --max-pixels -h,--help' ;;
    'eval codebook') commands='' flags='--size -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug -v,--verbose --max-pixels -h,--help' ;;
    'eval nll') commands='' flags='--stride --precision -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug -v,--verbose --max-pixels -h,--help' ;;
    'eval all') commands='' flags='--perceptual --weights --offline -o,--out --batch-size --device --memory --workers --config --json -q,--quiet --debug --features --resize --size --cache,--no-cache -v,--verbose --max-pixels -h,--help' ;;
    'tokens') commands='verify merge' flags='-h,--help' ;;
    'tokens verify') commands='' flags='--json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'tokens merge') commands='' flags='-o,--out --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'presets') commands='ls show' flags='-h,--help' ;;
    'presets ls') commands='' flags='--json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'presets show') commands='' flags='--json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'weights') commands='ls verify fetch' flags='-h,--help' ;;
    'weights ls') commands='' flags='--all --weights --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'weights verify') commands='' flags='--weights --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    'weights fetch') commands='' flags='--all -o,--out --offline --json -q,--quiet --debug -v,--verbose -h,--help' ;;
    esac
}

# Sets what a flag may be; $1 is `command flag`. Fails where it takes no value.
_taming_value_of_flag() {
    case $1 in
    'train-vqgan --precision' | 'train-prior --precision') words='auto fp32 bf16' ;;
    'train-vqgan --cache') ;;
    'tokenize -o' | 'tokenize --out' | 'tokens merge -o' | 'tokens merge --out') suffixes='.h5' ;;
    'train-prior --cond') words='class segmentation depth pose edges lowres coords none' many='1' ;;
    'sample --cond') keys='segmentation depth pose edges' suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .npy .json' ;;
    'import --config' | 'info --config') suffixes='.yaml .yml' ;;
    'import -o' | 'import --out') suffixes='.safetensors' ;;
    'export -o' | 'export --out') suffixes='.ckpt' ;;
    'demo-data --kind') words='landscape figure' ;;
    'annotate depth --model') suffixes='' ;;
    *' --version' | *' -h' | *' --help' | *' --resume' | *' -0' | *' --null' | *' --offline' | *' --dry-run' | *' --json' | *' -q' | *' --quiet' | *' --debug' | *' --unlabelled' | *' --gradient-checkpointing' | *' --legacy' | *' --flip' | *' --no-flip' | *' --snapshots' | *' --tensorboard' | *' --cache' | *' --normalize' | *' -v' | *' --verbose' | *' --fsdp' | *' --greedy' | *' --allow-non-finite' | *' --no-cache' | *' --all') return 1 ;;
    *' --preset') words='tiny small f16-1024 f16-16384' ;;
    *' --config') suffixes='.toml .json' ;;
    *' -o' | *' --out') suffixes='' ;;
    *' --weights') suffixes='.pth .pt .safetensors' ;;
    *' --kind') words='image segmentation depth pose edges' ;;
    *' --colours' | *' --pictures') suffixes='any' ;;
    *' --perceptual') words='lpips-vgg lpips-alex lpips-squeeze efficientnet-lite0 none' ;;
    *' --quantizer') words='ema vq' ;;
    *' --device') words='auto cpu cuda mps' ;;
    *' --precision') words='auto fp32 bf16 fp16' ;;
    *' --val') suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt' ;;
    *' --init' | *' --cond-ckpt' | *' --codec') suffixes='.safetensors' ;;
    *' --train') words='all decoder' ;;
    *' --disc-loss') words='hinge vanilla' ;;
    *' --ckpt') words='builtin' suffixes='.safetensors' ;;
    *' --cond') words='edges lowres coords' keys='segmentation depth pose edges' suffixes='' bare='' ;;
    *' --arch') words='modern published' ;;
    *' --complete') suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp' ;;
    *' --mask') words='upper-half' suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp' ;;
    *' --class-map') suffixes='.json' ;;
    *' --tokens') suffixes='.h5' ;;
    *' --npz') suffixes='.npz' ;;
    *' --keep') words='pixels codes' ;;
    *' --classifier') words='efficientnet-lite0 resnet50' ;;
    *' --to') words='compvis diffusers' ;;
    *' --by') words='step images time' ;;
    *' --model') words='deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large fcn_resnet50 fcn_resnet101 lraspp_mobilenet_v3_large' ;;
    *' --features') words='inception-v3-compat vgg16 dinov2 efficientnet-lite0' ;;
    *' --resize') words='tf1 clean' ;;
    esac
}

# Sets what an argument may be; $1 is `command number`, counted from 0. Fails where the command takes none there.
_taming_value_of_argument() {
    case $1 in
    'decode 0' | 'eval nll 1' | 'tokens verify 0') suffixes='.h5' ;;
    'decode 1' | 'demo-data 0' | 'eval all 0') suffixes='' ;;
    'import 0') suffixes='.ckpt .pt .pth .bin .safetensors' ;;
    'export 0' | 'eval rfid 0' | 'eval recon 0' | 'eval codebook 0' | 'eval nll 0') suffixes='.safetensors' ;;
    'info 0') suffixes='.ckpt .pt .pth .bin .safetensors .h5' ;;
    'guide 0') words='own-pictures conditions any-size evaluation several-gpus published-models settings troubleshooting' ;;
    'eval fid 0' | 'eval fid 1' | 'eval is 0' | 'eval kid 0' | 'eval kid 1' | 'eval prc 0' | 'eval prc 1') suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt .h5 .npz' ;;
    'presets show 0') words='tiny small f16-1024 f16-16384' ;;
    'train-vqgan '* | 'tokenize '* | 'reconstruct '* | 'annotate segmentation '* | 'annotate depth '* | 'annotate pose '* | 'annotate edges '* | 'eval rfid '* | 'eval recon '*) suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt' ;;
    'train-prior '* | 'tokens merge '*) suffixes='.h5' ;;
    'report '*) suffixes='' ;;
    'eval codebook '*) suffixes='.avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt .h5' ;;
    'weights verify '* | 'weights fetch '*) words='efficientnet-lite0 vgg16 alexnet squeezenet1_1 inception-v3-compat deeplabv3_resnet50 keypointrcnn_resnet50_fpn dinov2 depth' ;;
    *) return 1 ;;
    esac
}

# Sets the help of a command or a flag; $1 is `command word`.
_taming_help() {
    case $1 in
    'weights ls') help='List the weights that commands ask for: what each is for, its file, and where it is' ;;
    'weights verify') help='Read the weights that are here, compare their sha256: exit code 1 for one that is wrong, or named and missing' ;;
    'train-vqgan --size') help='Size of the training crops, in pixels. Default 128x128.' ;;
    'train-vqgan --batch-size') help='Pictures per step. Default 8.' ;;
    'train-vqgan --perceptual') help='Perceptual network; all but efficientnet-lite0 and none need a download. Default efficientnet-lite0. One of lpips-vgg, lpips-alex, lpips-squeeze, efficientnet-lite0, none.' ;;
    'train-vqgan --device' | 'train-prior --device') help='Device: auto, cpu, cuda, cuda:N or mps. Default auto.' ;;
    'train-vqgan --precision') help='Precision of the networks; losses and quantisation are in fp32. Default auto.' ;;
    'train-vqgan --workers') help='Processes that read pictures; 0: one thread. Default 0.' ;;
    'train-vqgan --cache') help='Memory for decoded pictures, in MiB. Default 1024.' ;;
    'tokenize --size' | 'reconstruct --size') help='Size of the pictures; by default the codec'\''s own.' ;;
    'tokenize --shard') help='Make the I-th of N parts, tokens.I-of-N.h5, for `taming tokens merge` to join.' ;;
    'tokenize --memory') help='Memory for encoding a picture, recorded in the file; 3 by default, on every machine.' ;;
    'reconstruct --pictures') help='Pictures that keypoints belong to, where these lack sizes.' ;;
    'decode --codec' | 'train-prior --codec') help='The codec, where the token file does not find it.' ;;
    'train-prior --cond-ckpt') help='A condition'\''s codec, where the token file does not find it.' ;;
    'train-prior --batch-size') help='Windows per step. Default 16.' ;;
    'train-prior --learning-rate') help='Peak learning rate. Default 0.002.' ;;
    'train-prior --betas') help='AdamW'\''s two betas. Default 0.9,0.95.' ;;
    'train-prior --final-lr') help='Learning rate at the end as a share of its peak (cosine). Default 0.05.' ;;
    'train-prior --clip') help='Largest gradient norm; 0: no limit. Default 1.' ;;
    'train-prior --dropout') help='Share zeroed of embeddings and block outputs; if published, of attention weights too. Default 0.1.' ;;
    'train-prior --cond') help='Conditions to learn, of those that the token files have; none at all: `none`.' ;;
    'train-prior --held') help='Share of the pictures held out. Default 0.05.' ;;
    'train-prior --precision') help='Arithmetic of the network; weights and loss are fp32. Default auto.' ;;
    'train-prior --init') help='Prior to start from: a model file, whose architecture is used.' ;;
    'sample --size') help='Of the pictures, in pixels, any; none: as their map, or as in training.' ;;
    'sample --cond') help='Condition map, or a folder with one for each picture; KIND=FILE where the prior takes several kinds. people.json:NAME selects one picture'\''s keypoints.' ;;
    'sample --codec') help='Codec with a fine-tuned decoder, in place of the prior'\''s.' ;;
    'sample --precision') help='Arithmetic; by default auto: bf16 for priors from 1024 channels where it is fast, else fp32.' ;;
    'sample --seed') help='Same seed, same pictures, whatever the batch size. Default 0.' ;;
    'sample --batch-size') help='Windows computed at once; changes memory and speed, not the pictures. Default 16.' ;;
    'import --config') help='The yaml that came with it, which a prior needs.' ;;
    'export -o' | 'export --out') help='A .ckpt file, or for diffusers the folder to write.' ;;
    'info --config') help='The yaml that came with a published checkpoint.' ;;
    'demo-data -n') help='Scenes.' ;;
    'demo-data --size') help='Size of the pictures. Default 256x256.' ;;
    'demo-data --seed') help='Seed of the scenes.' ;;
    'demo-data --kind') help='Only these.' ;;
    'demo-data --workers') help='Processes that draw; else as many as pay.' ;;
    'report -o' | 'report --out') help='The page; by default report.html, of one run in its folder, of several here.' ;;
    'annotate depth --model') help='transformers depth model in safetensors format: a folder, or a name on the Hugging Face hub. Default depth-anything/Depth-Anything-V2-Small-hf.' ;;
    'eval fid -o' | 'eval fid --out' | 'eval is -o' | 'eval is --out' | 'eval kid -o' | 'eval kid --out' | 'eval prc -o' | 'eval prc --out' | 'eval rfid -o' | 'eval rfid --out' | 'eval recon -o' | 'eval recon --out' | 'eval codebook -o' | 'eval codebook --out' | 'eval nll -o' | 'eval nll --out' | 'eval all -o' | 'eval all --out') help='Keep the result there, and what it draws.' ;;
    'eval is --seed') help='Random seed of the assignment of pictures to splits. Default 2020.' ;;
    'eval kid --seed') help='Random seed of the subsets. Default 2020.' ;;
    'eval recon --size' | 'eval codebook --size') help='Centre crops of this size; by default each picture whole.' ;;
    'eval nll --stride') help='Columns that share a window; 1 is the published rule.' ;;
    'tokens merge -o' | 'tokens merge --out') help='The token file to write.' ;;
    'weights fetch --all') help='All that `taming weights ls` lists.' ;;
    'weights fetch -o' | 'weights fetch --out') help='Folder for them, such as $TAMING_WEIGHTS_DIR; else torch'\''s cache.' ;;
    *' train-vqgan') help='Train a codec on pictures: a run folder with its checkpoints, curves and reconstructions' ;;
    *' tokenize') help='Turn pictures into a token file (by default tokens.h5)' ;;
    *' reconstruct') help='Send pictures (or a codec'\''s condition maps) through it and back, each at its own size; prints the mean PSNR' ;;
    *' decode') help='Turn a token file back into pictures' ;;
    *' train-prior') help='Train a prior on token files: a run folder with its checkpoints, curves and samples' ;;
    *' sample') help='Draw new pictures: PNGs and a grid, in the folder -o (by default under runs/sample/)' ;;
    *' import') help='Turn a published checkpoint into a model file; nothing in it is run, and every tensor is accounted for' ;;
    *' export') help='Write a model in the layout of another program, so that it works there' ;;
    *' info') help='Say what a file is and holds: a model, tokens, or a published checkpoint' ;;
    *' demo-data') help='Draw a small data set of landscapes and figures, with segmentation, depth and pose maps and classes' ;;
    *' report') help='Write one page: of a run anew, or of several runs beside one another' ;;
    *' doctor') help='Check versions, devices, precision, weights, folders, settings: exit code 1 where something needed would fail' ;;
    *' guide') help='List the guides, or print one' ;;
    *' annotate') help='Make the condition maps of pictures, each at its picture'\''s size and relative path, as PNG' ;;
    *' eval') help='Measure pictures, codecs and priors' ;;
    *' tokens') help='Check and join token files' ;;
    *' presets') help='The named sets of settings' ;;
    *' weights') help='Pretrained weights: list, verify and fetch them' ;;
    *' segmentation') help='Label maps by a network of torchvision (by default DeepLabV3, 21 labels), with labels.txt beside them' ;;
    *' depth') help='Depth by a model of transformers (pip install '\''taming[annotate]'\''), 16-bit grey, each map by its own range' ;;
    *' pose') help='Skeletons of the people in them, by torchvision'\''s keypoint R-CNN, on black' ;;
    *' edges') help='White edges on black by Canny'\''s method, as `tokenize --cond edges` makes them; needs no network' ;;
    *' fid') help='Frechet distance of two sides'\'' features: FID, or under another network'\''s name' ;;
    *' is') help='Inception score of pictures, and its deviation over parts' ;;
    *' kid') help='Kernel distance of two sides'\'' features, and its deviation over subsets' ;;
    *' prc') help='Improved precision and recall of generated pictures; first published with --features vgg16' ;;
    *' rfid') help='Frechet distance from pictures to their reconstructions, which are not written' ;;
    *' recon') help='PSNR, SSIM, L1, perceptual distance and bits per pixel of a codec'\''s reconstructions; -o keeps worst and best' ;;
    *' codebook') help='How a codebook is used: codes that occur, their perplexity, those that never do; -o keeps a histogram' ;;
    *' nll') help='nats/token and bits/dim of a token file'\''s codes under a prior; by class, and -o keeps a map by position' ;;
    *' all') help='Everything that fits a run, on what it never learned from, into its eval.json and its report' ;;
    *' verify') help='Read every part of a token file: checksums, ranges, counts' ;;
    *' merge') help='Join token files into one' ;;
    *' ls') help='List the presets' ;;
    *' show') help='Print every setting of a preset, as a file that --config takes' ;;
    *' fetch') help='Download weights and verify them; what is here already is left, or copied to the folder of -o' ;;
    *' --version') help='Print the version.' ;;
    *' -h' | *' --help') help='Show this message and exit.' ;;
    *' --preset') help='A set of settings; else tiny, on a GPU small.' ;;
    *' --config') help='TOML or JSON file of settings.' ;;
    *' -o' | *' --out') help='Run folder, output folder or file.' ;;
    *' --name') help='The run'\''s name under runs/; else it counts up.' ;;
    *' --resume') help='Go on with the newest run, or with the one named.' ;;
    *' -0' | *' --null') help='Paths on stdin end with NUL, as of `find -print0`.' ;;
    *' --weights') help='Pretrained weights: a file, or a folder of them.' ;;
    *' --offline') help='Never download.' ;;
    *' --dry-run') help='Say what would be done, and write nothing.' ;;
    *' --nproc') help='Processes on this machine that share each batch, each on its own GPU.' ;;
    *' --json') help='Print the result as JSON.' ;;
    *' -q' | *' --quiet') help='Print only the path or the number.' ;;
    *' --debug') help='Show the traceback of an error.' ;;
    *' --kind') help='Kind of the files: pictures, or the maps of a condition. Default image. One of image, segmentation, depth, pose, edges.' ;;
    *' --labels') help='Number of labels of segmentation maps; 0: the largest label that occurs, plus one. Default 0.' ;;
    *' --unlabelled') help='Segmentation maps mark unlabelled pixels by 255: they become label 0, and other labels increase by 1.' ;;
    *' --colours') help='Colour table of segmentation maps in true colour: one line `#rrggbb name` per label.' ;;
    *' --label-values') help='Pixel values of segmentation maps that become labels 0, 1, 2 and so on; 0,255 for masks.' ;;
    *' --missing') help='Values that mark missing pixels of depth maps, like 0,65535 or nan; replaced by the nearest measured value.' ;;
    *' --depth-range') help='Percentiles of a depth map that are mapped to -1 and 1; 2,98 ignores outliers. Default 0.0,100.0.' ;;
    *' --pictures') help='Pictures of keypoint files that do not record the size of their picture; paired by name.' ;;
    *' --size') help='Centre-crop and resize all pictures to this size first; none: keep their size.' ;;
    *' --steps') help='Number of optimiser steps; 0: no limit. Default 0.' ;;
    *' --minutes') help='Wall-clock time in minutes; 0: no limit. Default 8.' ;;
    *' --batch-size') help='Pictures at once.' ;;
    *' --accumulate') help='Split each batch into this many parts and accumulate their gradients. Default 1.' ;;
    *' --gradient-checkpointing') help='Recompute activations in the backward pass: less memory, a third slower.' ;;
    *' --learning-rate') help='Peak learning rate of the codec. Default 0.0003.' ;;
    *' --disc-learning-rate') help='Peak learning rate of the discriminator. Default 0.0002.' ;;
    *' --betas') help='Adam'\''s two betas. Default 0.5,0.9.' ;;
    *' --warmup') help='Steps of linear warm-up. Default 50.' ;;
    *' --final-lr') help='Learning rate at the end as a share of its peak (cosine). Default 0.02.' ;;
    *' --disc-final-lr') help='The same of the discriminator'\''s learning rate; 1: constant. Default 1.' ;;
    *' --clip') help='Largest gradient norm of the codec; 0: no limit. Default 1.' ;;
    *' --ema') help='Decay of the moving average of the weights; 0: none. Default 0.998.' ;;
    *' --l1-weight') help='Weight of the L1 loss. Default 1.' ;;
    *' --l2-weight') help='Weight of the L2 loss; large areas and colours are learned sooner. Default 2.' ;;
    *' --perceptual') help='lpips-vgg, lpips-alex, efficientnet-lite0 (the default) or none.' ;;
    *' --perceptual-weight') help='Weight of the perceptual term. Default 0.2.' ;;
    *' --codebook-weight') help='Weight of the codebook and commitment terms. Default 1.' ;;
    *' --beta') help='Weight of the commitment term within them. Default 0.25.' ;;
    *' --legacy') help='Put beta on the codebook term instead, as the published code did.' ;;
    *' --disc-weight') help='Weight of the adversarial term, times the adaptive weight. Default 0.2.' ;;
    *' --disc-train-start') help='Share of the training after which the discriminator trains; its term counts later. Default 0.3.' ;;
    *' --disc-start') help='Share of the training after which the adversarial term counts. Default 0.4.' ;;
    *' --disc-ramp') help='Share of the training over which that term grows to its weight. Default 0.1.' ;;
    *' --quantizer') help='How the codebook learns: moving averages (ema) or by its own loss (vq, as published). Default ema.' ;;
    *' --codebook-decay') help='Decay of the ema quantizer'\''s moving averages. Default 0.9.' ;;
    *' --revive') help='Replace codes used less than this share of an even use; 0: never (as published). Default 0.1.' ;;
    *' --crop-scale') help='Smallest and largest area of a training crop, as shares of the largest crop. Default 0.4,1.0.' ;;
    *' --flip') help='Mirror half of the training crops. On by default.' ;;
    *' --no-flip') help='Turn --flip off.' ;;
    *' --held') help='Fraction of the pictures that is held out, unless --val is given. Default 0.05.' ;;
    *' --val-every') help='Fraction of the training between two validations. Default 0.1.' ;;
    *' --val-images') help='Held-out pictures used in each validation. Default 64.' ;;
    *' --save-every') help='Minutes between two saves, besides those at each validation. Default 5.' ;;
    *' --snapshots') help='Keep the model of each validation, as checkpoints/step_*.safetensors.' ;;
    *' --tensorboard') help='Also write event files for TensorBoard; needs tensorboardX.' ;;
    *' --seed') help='Random seed. Default 0.' ;;
    *' --device') help='auto, cpu, cuda, cuda:N or mps.' ;;
    *' --precision') help='Arithmetic of the networks.' ;;
    *' --workers') help='Threads that read pictures.' ;;
    *' --cache') help='Cache the statistics of reference pictures. On by default.' ;;
    *' --val') help='Held-out pictures: a folder, file, archive or list of paths.' ;;
    *' --init') help='Start from the weights and architecture of this codec.' ;;
    *' --train') help='`decoder` keeps encoder and codebook, so that existing tokens and priors stay valid. Default all.' ;;
    *' --ch') help='Channels at full resolution; a multiple of --norm-groups. Default 32.' ;;
    *' --ch-mult') help='Channel multiplier of each level; n levels downsample by f = 2^(n-1). Default 1,1,2,4.' ;;
    *' --num-res-blocks') help='Residual blocks per level; the decoder has one more. Default 1.' ;;
    *' --norm-groups') help='Groups of each GroupNorm (published: 32). Fewer than 4 channels per group remove colour information. Default 8.' ;;
    *' --attn-resolutions') help='Nominal sizes of the levels with attention: --resolution divided by 1, 2, 4 and so on. Default 16.' ;;
    *' --z-channels') help='Channels between encoder and quantizer. Default 64.' ;;
    *' --resolution') help='Nominal side of a picture, which determines the levels with attention. Default 128.' ;;
    *' --dropout') help='Dropout in the residual blocks. Default 0.' ;;
    *' --codebook-size') help='Entries of the codebook, K. Default 1024.' ;;
    *' --codebook-dim') help='Length of each entry, D. Default 8.' ;;
    *' --normalize') help='Compare codes by angle: entries and encoder outputs are scaled to length 1.' ;;
    *' --disc-ndf') help='Channels of the discriminator'\''s first layer. Default 32.' ;;
    *' --disc-num-layers') help='Strided layers of the discriminator: 3 see 70 x 70 pixels each, 2 see 34 x 34. Default 2.' ;;
    *' --disc-loss') help='The adversarial loss. Default hinge.' ;;
    *' -v' | *' --verbose') help='Say the settings and where each came from, and what is chosen.' ;;
    *' --max-pixels') help='Pixels that a picture may have; larger ones are skipped. Default 178956970.' ;;
    *' --ckpt') help='Model file; else $TAMING_CKPT, else the newest run'\''s, else `builtin`.' ;;
    *' --views') help='Views of each picture: centre crop, its mirror image, random crops.' ;;
    *' --cond') help='Keep a condition beside the codes: with the folder of its maps, named like the pictures; edges, lowres and coords also as KIND alone, made of the picture.' ;;
    *' --cond-ckpt') help='Codec of such maps; its file says of which kind.' ;;
    *' --shard') help='Do every N-th picture, from the I-th: a part of the work.' ;;
    *' --memory') help='Memory for coding a picture; one that fits is decoded exactly. By default half of what is free.' ;;
    *' --codec') help='Of a token file, where that does not find its own.' ;;
    *' --fsdp') help='Shard weights, gradients and optimiser among the processes (FSDP2), for priors that do not fit one.' ;;
    *' --weight-decay') help='Weight decay of AdamW, on the weights of linear layers only. Default 0.05.' ;;
    *' --pkeep') help='Probability of keeping an input code; others are replaced by random codes. Targets stay. Default 1.' ;;
    *' --condition-dropout') help='Probability of dropping all conditions of a picture, and of dropping each one of several. Guidance needs a value above 0. Default 0.1.' ;;
    *' --val-windows') help='Held-out windows used in each validation. Default 512.' ;;
    *' --patience') help='Number of validations without improvement after which training stops; 0: never. Default 0.' ;;
    *' --samples') help='Pictures drawn at each validation; 0: none. Default 16.' ;;
    *' --arch') help='modern: RMSNorm, SwiGLU, 2-D rotary positions, query/key norm; published: learned positions, LayerNorm, GELU. Default modern.' ;;
    *' --n-layer') help='Transformer blocks. Default 4.' ;;
    *' --n-head') help='Attention heads. Default 4.' ;;
    *' --n-embd') help='Width of the network; a multiple of the heads. Default 256.' ;;
    *' --window') help='Cells that the prior sees at once; a token file with smaller grids makes it smaller. Default 16x16.' ;;
    *' -n') help='How many pictures. Default 1.' ;;
    *' --class') help='Class to draw: its name, or '\''#N'\'' for number N from 0, or N where classes have no names; none: any.' ;;
    *' --complete') help='Complete this picture; a larger --size extends it.' ;;
    *' --mask') help='White where the picture is drawn; `upper-half` keeps its upper half.' ;;
    *' --at') help='The picture'\''s upper left corner in a larger --size; by default it is centred.' ;;
    *' --class-map') help='JSON from the prior'\''s classes to the classifier'\''s, if names differ.' ;;
    *' --first') help='Number of the first sample: --first 17 -n 1 draws sample 17 alone.' ;;
    *' --tokens') help='Also write the codes, as a token file.' ;;
    *' --npz') help='Also write the pictures as one array, in the ADM suite'\''s format.' ;;
    *' --temperature') help='Divides the logits: below 1 safer, above 1 wilder. Default 1.' ;;
    *' --top-k') help='Keep the k most likely codes; 0: all. Default 0.' ;;
    *' --top-p') help='Keep the most likely codes that together reach this probability; 1: all. Default 1.' ;;
    *' --min-p') help='Keep codes at least this share as likely as the most likely one. Default 0.' ;;
    *' --guidance') help='Pull towards the condition: unconditional + guidance x (conditional - unconditional); 1: none. Default 1.' ;;
    *' --greedy') help='Always take the most likely code.' ;;
    *' --candidates') help='With --complete: so many fillings are drawn, and the one kept that what comes after it fits best. Default 1.' ;;
    *' --keep') help='With --complete: `pixels` leaves what is known as it is, and fits the colours beside it; `codes` keeps its codes, and decodes all. Default pixels.' ;;
    *' --accept-rate') help='Draw n / rate and keep the n that --classifier gives their class the most; 1: all. Default 1.' ;;
    *' --classifier') help='That classifier: efficientnet-lite0 (no download) or one of torchvision, such as resnet50. Default efficientnet-lite0.' ;;
    *' --stride') help='Columns that share a window: 1 is the paper'\''s procedure, more is faster; 0: half the window'\''s. Default 0.' ;;
    *' --allow-non-finite') help='Import it though weights are NaN or infinite.' ;;
    *' --to') help='Whose layout: the authors'\'', or diffusers'\'' VQModel.' ;;
    *' --count') help='Scenes.' ;;
    *' --by') help='What the charts of several runs count along; by default steps, or images where batches differ.' ;;
    *' --model') help='torchvision segmentation network: deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large, fcn_resnet50, fcn_resnet101 or lraspp_mobilenet_v3_large. Default deeplabv3_resnet50.' ;;
    *' --score') help='Draw persons with a higher probability than this. Default 0.75.' ;;
    *' --joint-score') help='Draw joints with a higher heatmap logit than this; lower: hidden ones too. Default 2.' ;;
    *' --features') help='Feature network. Only scores with inception-v3-compat are called FID, IS or KID. efficientnet-lite0 needs no download. Default inception-v3-compat. One of inception-v3-compat, vgg16, dinov2, efficientnet-lite0.' ;;
    *' --resize') help='Resizing to the network'\''s input: tf1 (bilinear, as for the published FID) or clean (bicubic, clean-fid). Default tf1.' ;;
    *' --no-cache') help='Turn --cache off.' ;;
    *' --splits') help='Number of splits whose scores are averaged. Default 10.' ;;
    *' --subsets') help='Number of random subsets whose distances are averaged. Default 100.' ;;
    *' --subset-size') help='Pictures of each side in a subset. Default 1000.' ;;
    *' --neighbours') help='The k of the k-th nearest neighbour, whose distance is the radius of a sphere. Default 3.' ;;
    *' --all') help='torchvision'\''s other networks too.' ;;
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
