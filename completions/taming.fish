# Completions of taming for fish.
# Made by scripts/completions from the commands of taming: run that again instead of changing this.

# The commands of a group.
function __taming_commands
    switch "$argv"
        case ''
            printf '%s\n' train-vqgan train-prior sample tokenize reconstruct decode import export annotate tokens info report demo-data doctor guide presets weights eval
        case 'annotate'
            printf '%s\n' segmentation depth pose edges
        case 'tokens'
            printf '%s\n' verify merge
        case 'presets'
            printf '%s\n' ls show
        case 'weights'
            printf '%s\n' ls verify fetch
        case 'eval'
            printf '%s\n' fid is kid prc rfid recon codebook nll memorization all
    end
end

# Whether a command's flag takes a value.
function __taming_takes
    switch $argv[1]
        case 'train-vqgan'
            contains -- $argv[2] --preset --scale --minutes --steps --size -o --out --name --kind --labels --colours --label-values --missing --depth-range --pictures --batch-size --accumulate --learning-rate --disc-learning-rate --betas --warmup --final-lr --disc-final-lr --clip --ema --l1-weight --l2-weight --perceptual --perceptual-weight --logits-weight --codebook-weight --beta --kl-weight --kl-ramp --relaxation --relaxation-ramp --disc-weight --disc-train-start --disc-start --disc-ramp --lecam-weight --disc-augment --quantizer --quantize-start --gradient --entropy-weight --entropy-temperature --codebook-decay --revive --crop-scale --held --val-every --val-images --save-every --seed --device --precision --workers --cache --val --init --train --perturb --prior --network --ch --decoder-ch --ch-mult --patch-size --num-res-blocks --n-res-channel --norm-groups --attn-resolutions --z-channels --resolution --dropout --codebook-size --codebook-dim --codebook --fsq-levels --fsq-bound --disc-ndf --disc-num-layers --disc-loss --nproc --device-name --weights --config --max-pixels
        case 'train-prior'
            contains -- $argv[2] --preset --scale --minutes --steps -o --out --name --codec --cond-ckpt --batch-size --accumulate --learning-rate --betas --weight-decay --warmup --final-lr --clip --ema --dropout --pkeep --condition-dropout --cond --held --val-every --val-windows --patience --save-every --samples --seed --device --precision --init --arch --level --n-layer --n-head --n-embd --window --reach --res-blocks --kernel --nproc --device-name --config
        case 'sample'
            contains -- $argv[2] -n --class --size --cond --complete --mask --redraw --at --ckpt -o --out --codec --above --class-map --first --tokens --npz --temperature --top-k --top-p --min-p --guidance --seed --candidates --keep --accept-rate --classifier --stride --speculate --sample-steps --batch-size --weights --name --shard --device --precision --memory --config --max-pixels
        case 'tokenize'
            contains -- $argv[2] --ckpt -o --out --size --views --cond --cond-ckpt --batch-size --shard --device --precision --memory --workers --config --max-pixels
        case 'reconstruct'
            contains -- $argv[2] --ckpt -o --out --size --pictures --batch-size --device --precision --memory --workers --shard --config --max-pixels
        case 'decode'
            contains -- $argv[2] --codec --batch-size --device --precision --memory --shard --config
        case 'import'
            contains -- $argv[2] -o --out --config --codec
        case 'export'
            contains -- $argv[2] -o --out --to
        case 'annotate segmentation'
            contains -- $argv[2] -o --out --model --shard --workers --weights --device --config --max-pixels
        case 'annotate depth'
            contains -- $argv[2] -o --out --model --shard --workers --weights --device --config --max-pixels
        case 'annotate pose'
            contains -- $argv[2] -o --out --score --joint-score --shard --workers --weights --device --config --max-pixels
        case 'annotate edges'
            contains -- $argv[2] -o --out --shard --workers --config --max-pixels
        case 'tokens merge'
            contains -- $argv[2] -o --out
        case 'info'
            contains -- $argv[2] --config
        case 'report'
            contains -- $argv[2] -o --out --by
        case 'demo-data'
            contains -- $argv[2] -n --count --size --seed --kind --workers
        case 'weights ls'
            contains -- $argv[2] --weights
        case 'weights verify'
            contains -- $argv[2] --weights
        case 'weights fetch'
            contains -- $argv[2] -o --out
        case 'eval fid'
            contains -- $argv[2] -o --out --batch-size --codec --features --resize --size --device --memory --workers --weights --config --max-pixels
        case 'eval is'
            contains -- $argv[2] -o --out --batch-size --codec --features --resize --size --splits --seed --device --memory --workers --weights --config --max-pixels
        case 'eval kid'
            contains -- $argv[2] -o --out --batch-size --codec --features --resize --size --subsets --subset-size --seed --device --memory --workers --weights --config --max-pixels
        case 'eval prc'
            contains -- $argv[2] -o --out --batch-size --codec --features --resize --size --neighbours --device --memory --workers --weights --config --max-pixels
        case 'eval rfid'
            contains -- $argv[2] -o --out --batch-size --features --resize --size --device --memory --workers --weights --config --max-pixels
        case 'eval recon'
            contains -- $argv[2] -o --out --batch-size --size --perceptual --device --memory --workers --weights --config --max-pixels
        case 'eval codebook'
            contains -- $argv[2] -o --out --batch-size --size --device --memory --workers --config --max-pixels
        case 'eval nll'
            contains -- $argv[2] -o --out --batch-size --stride --order --sample-steps --device --memory --workers --precision --config --max-pixels
        case 'eval memorization'
            contains -- $argv[2] -o --out --batch-size --held-out --codec --features --resize --size --device --memory --workers --weights --config --max-pixels
        case 'eval all'
            contains -- $argv[2] -o --out --batch-size --perceptual --features --resize --size --device --memory --workers --weights --config --max-pixels
        case '*'
            return 1
    end
end

# Reads the line up to the word that is completed: the command, the flags that are given, the flag whose value is still to
# come, and how many other words there are. Once for a line, though every condition below asks for it.
function __taming_read
    set -l words (commandline -opc)
    test "$words" = "$__taming_words"; and return
    set -g __taming_words $words
    set -g __taming_command ''
    set -g __taming_given
    set -g __taming_open
    set -g __taming_count 0
    set -l ended
    set -e words[1]
    for word in $words
        if set -q __taming_open[1]
            set -a __taming_given $__taming_open
            set __taming_open
        else if set -q ended[1]; or not string match -qr -- '^-.' $word
            if test $__taming_count = 0; and contains -- $word (__taming_commands $__taming_command)
                set __taming_command (string trim -- "$__taming_command $word")
                set __taming_given
            else
                set __taming_count (math $__taming_count + 1)
            end
        else if test $word = --
            set ended yes
        else if string match -q -- '--*' $word
            set -l flag (string replace -r '=.*' '' -- $word)
            if test $flag = $word; and __taming_takes $__taming_command $flag
                set __taming_open $flag
            else
                set -a __taming_given $flag
            end
        else
            __taming_read_short $word
        end
    end
end

# Short flags may stand together, and a value right behind the last: -qn 4, -qn4.
function __taming_read_short
    set -l letters (string split '' -- (string sub -s 2 -- $argv[1]))
    while set -q letters[1]
        set -l flag -$letters[1]
        set -e letters[1]
        if not __taming_takes $__taming_command $flag
            set -a __taming_given $flag
        else if set -q letters[1]
            set -a __taming_given $flag
            return
        else
            set __taming_open $flag
        end
    end
end

# Whether the flag of the spellings $argv[1], a list with spaces between, is one of the commands that follow, and not given
# yet.
function __taming_may
    __taming_read
    contains -- $__taming_command $argv[2..-1]; or return
    for spelling in (string split ' ' -- $argv[1])
        contains -- $spelling $__taming_given; and return 1
    end
    return 0
end

# Whether so many words, $argv[1], stand behind one of the commands that follow.
function __taming_at
    __taming_read
    test $__taming_count = $argv[1]; and contains -- $__taming_command $argv[2..-1]
end

# Whether at least so many do.
function __taming_from
    __taming_read
    test $__taming_count -ge $argv[1]; and contains -- $__taming_command $argv[2..-1]
end

# What is typed of a value: the word, without the flag before it.
function __taming_value
    commandline -ct | string replace -r '^(--[^=]*=|-[^-])' ''
end

# Folders, and files whose names end in one of the arguments, in capitals or not; where there are none of either, any file.
function __taming_files
    set -l all (complete -C "'' "(__taming_value))
    set -l ends (string escape --style=regex -- $argv)
    set -l found (string match -ri -- '.*(?:'(string join '|' / $ends)')$' $all)
    set -q found[1]; or not set -q argv[1]; or set found $all
    printf '%s\t\n' $found
end

# The arguments as keys, each with the = that a file stands behind.
function __taming_keys
    __taming_value | string match -q '*=*'; or printf '%s=\t\n' $argv
end

# A file behind a key, by the ends of its name.
function __taming_files_of_key
    __taming_value | string match -q '*=*'; and __taming_files $argv
end

# Several of the arguments, with commas between.
function __taming_list
    set -l before (__taming_value | string replace -r '[^,]*$' '')
    for word in $argv
        contains -- $word (string split , -- $before); or printf '%s\t\n' $before$word
    end
end

complete -c taming -f

complete -c taming -n '__taming_at 0 \'\'' -a train-vqgan -d 'Train a codec on pictures'
complete -c taming -n '__taming_at 0 \'\'' -a train-prior -d 'Train a prior on token files'
complete -c taming -n '__taming_at 0 \'\'' -a sample -d 'Draw new pictures'
complete -c taming -n '__taming_at 0 \'\'' -a tokenize -d 'Encode pictures to a token file'
complete -c taming -n '__taming_at 0 \'\'' -a reconstruct -d 'Encode and decode pictures (or condition maps), each at its own size, and print the mean PSNR'
complete -c taming -n '__taming_at 0 \'\'' -a decode -d 'Decode a token file to pictures'
complete -c taming -n '__taming_at 0 \'\'' -a import -d 'Convert a published checkpoint to a model file'
complete -c taming -n '__taming_at 0 \'\'' -a export -d 'Write a model file in the layout of another program'
complete -c taming -n '__taming_at 0 \'\'' -a annotate -d 'Compute condition maps of pictures, as PNGs of the same size and relative path'
complete -c taming -n '__taming_at 0 \'\'' -a tokens -d 'Check and join token files'
complete -c taming -n '__taming_at 0 \'\'' -a info -d 'Describe a file: a model, tokens, or a published checkpoint'
complete -c taming -n '__taming_at 0 \'\'' -a report -d 'Write the report of a run, or a comparison of several runs, as one HTML page'
complete -c taming -n '__taming_at 0 \'\'' -a demo-data -d 'Draw a small data set of landscapes and figures, with segmentation, depth and pose maps and classes'
complete -c taming -n '__taming_at 0 \'\'' -a doctor -d 'Check versions, devices, precision, weights, folders and settings'
complete -c taming -n '__taming_at 0 \'\'' -a guide -d 'List the guides, or print one'
complete -c taming -n '__taming_at 0 \'\'' -a presets -d 'List and print the named sets of settings'
complete -c taming -n '__taming_at 0 \'\'' -a weights -d 'List, verify and download pretrained weights'
complete -c taming -n '__taming_at 0 \'\'' -a eval -d 'Measure pictures, codecs and priors'
complete -c taming -n '__taming_at 0 \'annotate\'' -a segmentation -d 'Label maps by a torchvision network (by default DeepLabV3, 21 labels), with labels.txt beside them'
complete -c taming -n '__taming_at 0 \'annotate\'' -a depth -d '16-bit depth maps by a transformers model (pip install \'taming[annotate]\'), each scaled to its own range'
complete -c taming -n '__taming_at 0 \'annotate\'' -a pose -d 'Skeletons of the people in the pictures, on black, by torchvision\'s keypoint R-CNN'
complete -c taming -n '__taming_at 0 \'annotate\'' -a edges -d 'White Canny edges on black, as `tokenize --cond edges` computes them'
complete -c taming -n '__taming_at 0 \'tokens\'' -a verify -d 'Read all of a token file and check its checksums, ranges and counts'
complete -c taming -n '__taming_at 0 \'tokens\'' -a merge -d 'Join token files into one'
complete -c taming -n '__taming_at 0 \'presets\'' -a ls -d 'List the presets'
complete -c taming -n '__taming_at 0 \'presets\'' -a show -d 'Print all settings of a preset, as a file for --config'
complete -c taming -n '__taming_at 0 \'weights\'' -a ls -d 'List the weights that commands need: what each is for, its file, and where it is'
complete -c taming -n '__taming_at 0 \'weights\'' -a verify -d 'Verify the sha256 of weights on this machine'
complete -c taming -n '__taming_at 0 \'weights\'' -a fetch -d 'Download and verify weights'
complete -c taming -n '__taming_at 0 \'eval\'' -a fid -d 'Frechet distance between two sets of pictures'
complete -c taming -n '__taming_at 0 \'eval\'' -a is -d 'Inception score of pictures, with its standard deviation over splits'
complete -c taming -n '__taming_at 0 \'eval\'' -a kid -d 'Kernel distance between two sets of pictures, with its standard deviation over subsets'
complete -c taming -n '__taming_at 0 \'eval\'' -a prc -d 'Improved precision and recall of generated pictures; first published with --features vgg16'
complete -c taming -n '__taming_at 0 \'eval\'' -a rfid -d 'Frechet distance between pictures and their reconstructions, which are not written to disk'
complete -c taming -n '__taming_at 0 \'eval\'' -a recon -d 'PSNR, SSIM, L1, perceptual distance and bits/pixel of reconstructions; -o also writes the best and worst'
complete -c taming -n '__taming_at 0 \'eval\'' -a codebook -d 'Codebook use: codes that occur, their perplexity, codes that never occur; -o also writes a histogram'
complete -c taming -n '__taming_at 0 \'eval\'' -a nll -d 'nats/token and bits/dim of a token file\'s codes under a prior, by class; -o also writes a map by position'
complete -c taming -n '__taming_at 0 \'eval\'' -a memorization -d 'Whether samples repeat training pictures: how near they are to them, compared with held-out pictures'
complete -c taming -n '__taming_at 0 \'eval\'' -a all -d 'Every measure that applies to a run, on held-out data'

complete -c taming -n '__taming_from 0 train-vqgan tokenize reconstruct \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\'' -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt)'
complete -c taming -n '__taming_from 0 train-prior \'tokens merge\'' -a '(__taming_files .h5)'
complete -c taming -n '__taming_at 0 decode \'tokens verify\'' -a '(__taming_files .h5)'
complete -c taming -n '__taming_at 1 decode' -a '(__taming_files)'
complete -c taming -n '__taming_from 0 import' -a '(__taming_files .ckpt .pkl .pt .pth .bin .safetensors)'
complete -c taming -n '__taming_at 0 export \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\'' -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_at 0 info' -a '(__taming_files .ckpt .pkl .pt .pth .bin .safetensors .h5)'
complete -c taming -n '__taming_from 0 report' -a '(__taming_files)'
complete -c taming -n '__taming_at 0 demo-data \'eval all\'' -a '(__taming_files)'
complete -c taming -n '__taming_at 0 guide' -a 'own-pictures\\t conditions\\t any-size\\t comparisons\\t evaluation\\t several-gpus\\t published-models\\t settings\\t security\\t troubleshooting\\t'
complete -c taming -n '__taming_at 0 \'presets show\'' -a 'tiny\\t scale-2\\t scale-3\\t scale-4\\t small\\t scale-6\\t vq-vae\\t vq-vae-2\\t dvae\\t palette\\t f16-1024\\t f16-16384\\t'
complete -c taming -n '__taming_from 0 \'weights verify\' \'weights fetch\'' -a 'efficientnet-lite0\\t vgg16\\t alexnet\\t squeezenet1_1\\t inception-v3-compat\\t deeplabv3_resnet50\\t keypointrcnn_resnet50_fpn\\t dinov2\\t depth\\t'
complete -c taming -n '__taming_at 0 \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval memorization\'' -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt .h5 .npz)'
complete -c taming -n '__taming_at 1 \'eval fid\' \'eval kid\' \'eval prc\'' -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt .h5 .npz)'
complete -c taming -n '__taming_from 1 \'eval rfid\' \'eval recon\'' -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt)'
complete -c taming -n '__taming_from 1 \'eval codebook\'' -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt .h5)'
complete -c taming -n '__taming_at 1 \'eval nll\'' -a '(__taming_files .h5)'
complete -c taming -n '__taming_at 1 \'eval memorization\'' -a '(__taming_files \'\')'

complete -c taming -n '__taming_may \'--version\' \'\'' -l version -d 'Print the version and exit.'
complete -c taming -n '__taming_may \'-h --help\' \'\' train-vqgan train-prior sample tokenize reconstruct decode import export annotate \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' tokens \'tokens verify\' \'tokens merge\' info report demo-data doctor guide presets \'presets ls\' \'presets show\' weights \'weights ls\' \'weights verify\' \'weights fetch\' eval \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -s h -l help -d 'Show this message and exit.'
complete -c taming -n '__taming_may \'--preset\' train-vqgan train-prior' -l preset -d 'Named set of settings: tiny, scale-2, scale-3, scale-4, small, scale-6, vq-vae, vq-vae-2, dvae, palette, f16-1024, f16-16384. Default: tiny on a CPU, small on a GPU.' -x -a 'tiny\\t scale-2\\t scale-3\\t scale-4\\t small\\t scale-6\\t vq-vae\\t vq-vae-2\\t dvae\\t palette\\t f16-1024\\t f16-16384\\t'
complete -c taming -n '__taming_may \'--scale\' train-vqgan train-prior' -l scale -d 'Size of the training, 1 (tiny) to 6: each has about 3 times the operations of the last.' -x
complete -c taming -n '__taming_may \'--minutes\' train-vqgan train-prior' -l minutes -d 'Wall-clock time in minutes; 0: no limit. Default 8.' -x
complete -c taming -n '__taming_may \'--steps\' train-vqgan train-prior' -l steps -d 'Number of optimiser steps; 0: no limit. Default 0.' -x
complete -c taming -n '__taming_may \'--size\' train-vqgan' -l size -d 'Size of the training crops, in pixels. Default 128x128.' -x
complete -c taming -n '__taming_may \'-o --out\' train-vqgan train-prior' -s o -l out -d 'Run folder. Default: the next number under runs/.' -x -a '(__taming_files)'
complete -c taming -n '__taming_may \'--name\' train-vqgan train-prior sample' -l name -d 'Name of the run under runs/. Default: the next number.' -x
complete -c taming -n '__taming_may \'--resume\' train-vqgan train-prior' -l resume -d 'Continue the newest run, or the one given by --name or -o.'
complete -c taming -n '__taming_may \'-0 --null\' train-vqgan tokenize' -s 0 -l null -d 'Paths on stdin end with NUL, as `find -print0` writes them.'
complete -c taming -n '__taming_may \'--kind\' train-vqgan' -l kind -d 'Kind of the files: pictures, or the maps of a condition. Default image. One of image, segmentation, depth, pose, edges.' -x -a 'image\\t segmentation\\t depth\\t pose\\t edges\\t'
complete -c taming -n '__taming_may \'--labels\' train-vqgan' -l labels -d 'Number of labels of segmentation maps; 0: the largest label that occurs, plus one. Default 0.' -x
complete -c taming -n '__taming_may \'--unlabelled\' train-vqgan' -l unlabelled -d '255 marks unlabelled pixels of segmentation maps; they become label 0, and other labels increase by 1.'
complete -c taming -n '__taming_may \'--colours\' train-vqgan' -l colours -d 'Colour table of segmentation maps in true colour: one line `#rrggbb name` per label.' -x -a '(__taming_files \'\')'
complete -c taming -n '__taming_may \'--label-values\' train-vqgan' -l label-values -d 'Pixel values of segmentation maps that become labels 0, 1, 2 and so on; for masks, 0,255.' -x
complete -c taming -n '__taming_may \'--missing\' train-vqgan' -l missing -d 'Values that mark missing pixels of depth maps, like 0,65535 or nan; replaced by the nearest measured value.' -x
complete -c taming -n '__taming_may \'--depth-range\' train-vqgan' -l depth-range -d 'Percentiles of a depth map that are mapped to -1 and 1; 2,98 ignores outliers. Default 0.0,100.0.' -x
complete -c taming -n '__taming_may \'--pictures\' train-vqgan' -l pictures -d 'Pictures of keypoint files that do not record picture sizes; paired by name.' -x -a '(__taming_files \'\')'
complete -c taming -n '__taming_may \'--batch-size\' train-vqgan' -l batch-size -d 'Pictures per step. Default 8.' -x
complete -c taming -n '__taming_may \'--accumulate\' train-vqgan train-prior' -l accumulate -d 'Split each batch into this many parts and accumulate their gradients. Default 1.' -x
complete -c taming -n '__taming_may \'--gradient-checkpointing\' train-vqgan train-prior' -l gradient-checkpointing -d 'Recompute activations in the backward pass: less memory, a third slower.'
complete -c taming -n '__taming_may \'--learning-rate\' train-vqgan' -l learning-rate -d 'Peak learning rate of the codec. Default 0.0003.' -x
complete -c taming -n '__taming_may \'--disc-learning-rate\' train-vqgan' -l disc-learning-rate -d 'Peak learning rate of the discriminator. Default 0.0002.' -x
complete -c taming -n '__taming_may \'--betas\' train-vqgan' -l betas -d 'Adam betas. Default 0.5,0.9.' -x
complete -c taming -n '__taming_may \'--warmup\' train-vqgan train-prior' -l warmup -d 'Steps of linear learning-rate warm-up. Default 50.' -x
complete -c taming -n '__taming_may \'--final-lr\' train-vqgan' -l final-lr -d 'Final learning rate as a fraction of the peak (cosine schedule). Default 0.02.' -x
complete -c taming -n '__taming_may \'--disc-final-lr\' train-vqgan' -l disc-final-lr -d 'Final learning rate of the discriminator as a fraction of its peak; 1: constant. Default 1.' -x
complete -c taming -n '__taming_may \'--clip\' train-vqgan' -l clip -d 'Gradient norm of the codec above which gradients are clipped; 0: never. Default 1.' -x
complete -c taming -n '__taming_may \'--ema\' train-vqgan train-prior' -l ema -d 'Decay of the moving average of the weights; 0: none. Default 0.998.' -x
complete -c taming -n '__taming_may \'--l1-weight\' train-vqgan' -l l1-weight -d 'Weight of the L1 loss. Default 1.' -x
complete -c taming -n '__taming_may \'--l2-weight\' train-vqgan' -l l2-weight -d 'Weight of the L2 loss; with a larger weight, large areas and colours are learned sooner. Default 2.' -x
complete -c taming -n '__taming_may \'--perceptual\' train-vqgan' -l perceptual -d 'Perceptual network; all but efficientnet-lite0 and none need a download. Default efficientnet-lite0. One of lpips-vgg, lpips-alex, lpips-squeeze, efficientnet-lite0, none.' -x -a 'lpips-vgg\\t lpips-alex\\t lpips-squeeze\\t efficientnet-lite0\\t none\\t'
complete -c taming -n '__taming_may \'--perceptual-weight\' train-vqgan' -l perceptual-weight -d 'Weight of the perceptual loss. Default 0.2.' -x
complete -c taming -n '__taming_may \'--logits-weight\' train-vqgan' -l logits-weight -d 'Weight of the squared difference of class logits of efficientnet-lite0; try 0.001. 0: none. Default 0.' -x
complete -c taming -n '__taming_may \'--codebook-weight\' train-vqgan' -l codebook-weight -d 'Weight of the codebook and commitment losses. Default 1.' -x
complete -c taming -n '__taming_may \'--beta\' train-vqgan' -l beta -d 'Weight of the commitment loss relative to the codebook loss. Default 0.25.' -x
complete -c taming -n '__taming_may \'--legacy\' train-vqgan' -l legacy -d 'Apply beta to the codebook loss instead, as the published code did.'
complete -c taming -n '__taming_may \'--kl-weight\' train-vqgan' -l kl-weight -d 'With --codebook gumbel: weight of the mean KL divergence of a cell\'s code from uniform. Default 0.0005.' -x
complete -c taming -n '__taming_may \'--kl-ramp\' train-vqgan' -l kl-ramp -d 'Fraction of the training over which this weight grows from 0 (half a cosine). Default 0.1.' -x
complete -c taming -n '__taming_may \'--relaxation\' train-vqgan' -l relaxation -d 'With --codebook gumbel: temperature at which codes are sampled in training, at the start and after --relaxation-ramp. Default 1:0.0625.' -x
complete -c taming -n '__taming_may \'--relaxation-ramp\' train-vqgan' -l relaxation-ramp -d 'Fraction of the training over which the temperature changes (half a cosine). Default 0.5.' -x
complete -c taming -n '__taming_may \'--disc-weight\' train-vqgan' -l disc-weight -d 'Weight of the adversarial loss, multiplied by the adaptive weight. Default 0.2.' -x
complete -c taming -n '__taming_may \'--disc-train-start\' train-vqgan' -l disc-train-start -d 'Fraction of the training after which the discriminator starts to train. Default 0.3.' -x
complete -c taming -n '__taming_may \'--disc-start\' train-vqgan' -l disc-start -d 'Fraction of the training after which the adversarial loss is applied. Default 0.4.' -x
complete -c taming -n '__taming_may \'--disc-ramp\' train-vqgan' -l disc-ramp -d 'Fraction of the training over which the adversarial loss grows to its full weight. Default 0.1.' -x
complete -c taming -n '__taming_may \'--lecam-weight\' train-vqgan' -l lecam-weight -d 'Weight of the discriminator\'s LeCam regularisation, for few pictures; 0: none. Default 0.' -x
complete -c taming -n '__taming_may \'--disc-augment\' train-vqgan' -l disc-augment -d 'Random changes of what the discriminator sees, for few pictures: of brightness, saturation and contrast, of the position, and a hole; a picture and its reconstruction are changed alike. One of colour, translation, cutout.' -x -a '(__taming_list colour translation cutout)'
complete -c taming -n '__taming_may \'--quantizer\' train-vqgan' -l quantizer -d 'How the codebook learns: by moving averages (ema), by its own loss (vq, as published), as a linear map of fixed entries (simvq), by the gradient of all entries (ibq); fsq and lfq have a fixed grid of codes. Default ema. One of ema, vq, simvq, ibq, fsq, lfq.' -x -a 'ema\\t vq\\t simvq\\t ibq\\t fsq\\t lfq\\t'
complete -c taming -n '__taming_may \'--quantize-start\' train-vqgan' -l quantize-start -d 'Fraction of the training after which codes are used; before, the decoder reads the encoder\'s vectors. Default 0.' -x
complete -c taming -n '__taming_may \'--gradient\' train-vqgan' -l gradient -d 'With ema, vq and simvq: how the gradient of the decoder passes through the quantizer: unchanged, or by the rotation from vector to entry. Default straight-through. One of straight-through, rotation.' -x -a 'straight-through\\t rotation\\t'
complete -c taming -n '__taming_may \'--entropy-weight\' train-vqgan' -l entropy-weight -d 'With ibq and lfq: weight of the entropy of each cell\'s code minus that of all codes of a batch. Default 0.1.' -x
complete -c taming -n '__taming_may \'--entropy-temperature\' train-vqgan' -l entropy-temperature -d 'With ibq and lfq: temperature of the logits whose entropy is measured. Default 0.01.' -x
complete -c taming -n '__taming_may \'--codebook-decay\' train-vqgan' -l codebook-decay -d 'Decay of the moving averages of the ema quantizer. Default 0.9.' -x
complete -c taming -n '__taming_may \'--revive\' train-vqgan' -l revive -d 'Replace entries used less than this fraction of the mean use; 0: never, as published. Default 0.1.' -x
complete -c taming -n '__taming_may \'--crop-scale\' train-vqgan' -l crop-scale -d 'Smallest and largest area of a training crop, as fractions of the largest crop. Default 0.4,1.0.' -x
complete -c taming -n '__taming_may \'--flip --no-flip\' train-vqgan' -l flip -d 'Mirror half of the training crops. On by default.'
complete -c taming -n '__taming_may \'--flip --no-flip\' train-vqgan' -l no-flip -d 'Turn --flip off.'
complete -c taming -n '__taming_may \'--held\' train-vqgan' -l held -d 'Fraction of the pictures that is held out, unless --val is given. Default 0.05.' -x
complete -c taming -n '__taming_may \'--val-every\' train-vqgan train-prior' -l val-every -d 'Fraction of the training between two validations. Default 0.1.' -x
complete -c taming -n '__taming_may \'--val-images\' train-vqgan' -l val-images -d 'Held-out pictures used in each validation. Default 64.' -x
complete -c taming -n '__taming_may \'--save-every\' train-vqgan train-prior' -l save-every -d 'Minutes between two saves, besides those at each validation. Default 5.' -x
complete -c taming -n '__taming_may \'--snapshots\' train-vqgan train-prior' -l snapshots -d 'Keep the model of each validation, as checkpoints/step_*.safetensors.'
complete -c taming -n '__taming_may \'--tensorboard\' train-vqgan train-prior' -l tensorboard -d 'Also write event files for TensorBoard; needs tensorboardX.'
complete -c taming -n '__taming_may \'--seed\' train-vqgan train-prior' -l seed -d 'Random seed. Default 0.' -x
complete -c taming -n '__taming_may \'--device\' train-vqgan train-prior' -l device -d 'Device: auto, cpu, cuda, cuda:N or mps. Default auto.' -x -a 'auto\\t cpu\\t cuda\\t mps\\t'
complete -c taming -n '__taming_may \'--precision\' train-vqgan' -l precision -d 'Precision of the networks; losses and quantisation are in fp32. Default auto.' -x -a 'auto\\t fp32\\t bf16\\t'
complete -c taming -n '__taming_may \'--workers\' train-vqgan' -l workers -d 'Processes that read pictures; 0: one thread. Default 0.' -x
complete -c taming -n '__taming_may \'--cache\' train-vqgan' -l cache -d 'Memory for decoded pictures, in MiB. Default 1024.' -x
complete -c taming -n '__taming_may \'--val\' train-vqgan' -l val -d 'Held-out pictures: a folder, file, archive or list of paths.' -x -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt)'
complete -c taming -n '__taming_may \'--init\' train-vqgan' -l init -d 'Start from the weights and architecture of this codec.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--train\' train-vqgan' -l train -d 'Parts to train; `decoder` keeps encoder and codebook, so that existing tokens and priors stay valid. Default all.' -x -a 'all\\t decoder\\t'
complete -c taming -n '__taming_may \'--perturb\' train-vqgan' -l perturb -d 'With --train decoder: replace the codes of random cells before they are decoded, in each picture a fraction between 0 and this one; 0: none. Default 0.' -x
complete -c taming -n '__taming_may \'--prior\' train-vqgan' -l prior -d 'With --perturb: draw the replaced codes from this prior, given the other cells; by default, they are near entries of the codebook.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--network\' train-vqgan' -l network -d 'vqgan: the network of the paper; dvae: that of DALL-E\'s discrete VAE, with --codebook gumbel and, as its reconstruction loss, the likelihood of the pixels; vq-vae-2: two levels of codes, f4 and f8; palette: none, each code is a colour, found by k-means. Default vqgan. One of vqgan, dvae, vq-vae-2, palette.' -x -a 'vqgan\\t dvae\\t vq-vae-2\\t palette\\t'
complete -c taming -n '__taming_may \'--ch\' train-vqgan' -l ch -d 'Channels at full resolution; a multiple of --norm-groups. Default 32.' -x
complete -c taming -n '__taming_may \'--decoder-ch\' train-vqgan' -l decoder-ch -d 'Channels of the decoder at full resolution; 0: as --ch. Default 0.' -x
complete -c taming -n '__taming_may \'--ch-mult\' train-vqgan' -l ch-mult -d 'Channel multiplier of each level; n levels downsample by 2^(n-1). Default 1,2,4.' -x
complete -c taming -n '__taming_may \'--patch-size\' train-vqgan' -l patch-size -d 'Side of the squares of pixels that the first layer reads, and the last one writes, as channels. It multiplies f, and saves the computation at full resolution. Default 2.' -x
complete -c taming -n '__taming_may \'--shortcut --no-shortcut\' train-vqgan' -l shortcut -d 'Add a linear map from the pixels of a cell to its vector beside the encoder: colours are learned sooner. On by default.'
complete -c taming -n '__taming_may \'--shortcut --no-shortcut\' train-vqgan' -l no-shortcut -d 'Turn --shortcut off.'
complete -c taming -n '__taming_may \'--num-res-blocks\' train-vqgan' -l num-res-blocks -d 'Residual blocks per level; the decoder has one more. Default 1.' -x
complete -c taming -n '__taming_may \'--n-res-channel\' train-vqgan' -l n-res-channel -d 'With --network vq-vae-2: channels between the two convolutions of a residual block. Default 32.' -x
complete -c taming -n '__taming_may \'--norm-groups\' train-vqgan' -l norm-groups -d 'Groups of each GroupNorm (published: 32). Fewer than 4 channels per group remove colour information. Default 8.' -x
complete -c taming -n '__taming_may \'--attn-resolutions\' train-vqgan' -l attn-resolutions -d 'Nominal sizes of the levels with attention: --resolution divided by --patch-size times 1, 2, 4 and so on. Default 16.' -x
complete -c taming -n '__taming_may \'--z-channels\' train-vqgan' -l z-channels -d 'Channels between encoder and quantizer. Default 64.' -x
complete -c taming -n '__taming_may \'--resolution\' train-vqgan' -l resolution -d 'Nominal side of a picture, which determines the levels with attention. Default 128.' -x
complete -c taming -n '__taming_may \'--dropout\' train-vqgan' -l dropout -d 'Dropout in the residual blocks. Default 0.' -x
complete -c taming -n '__taming_may \'--codebook-size\' train-vqgan' -l codebook-size -d 'Number of codebook entries, K. Default 1024.' -x
complete -c taming -n '__taming_may \'--codebook-dim\' train-vqgan' -l codebook-dim -d 'Dimension of each codebook entry, D. Default 8.' -x
complete -c taming -n '__taming_may \'--codebook\' train-vqgan' -l codebook -d 'nearest: a code is the nearest entry; gumbel: the largest of K logits; fsq, lfq: each channel is rounded to one of a few levels, or to its sign (see --quantizer). Default nearest. One of nearest, gumbel, fsq, lfq.' -x -a 'nearest\\t gumbel\\t fsq\\t lfq\\t'
complete -c taming -n '__taming_may \'--fsq-levels\' train-vqgan' -l fsq-levels -d 'With fsq: levels of each channel, whose product is K; by default those published for a K near --codebook-size.' -x
complete -c taming -n '__taming_may \'--fsq-bound\' train-vqgan' -l fsq-bound -d 'With fsq: bounds a channel before it is rounded; sigmoid makes a normal variable nearly uniform (iFSQ). Default tanh.' -x -a 'tanh\\t sigmoid\\t'
complete -c taming -n '__taming_may \'--normalize\' train-vqgan' -l normalize -d 'Normalise codebook entries and encoder outputs to unit length (cosine distance).'
complete -c taming -n '__taming_may \'--disc-ndf\' train-vqgan' -l disc-ndf -d 'Channels of the first layer of the discriminator. Default 32.' -x
complete -c taming -n '__taming_may \'--disc-num-layers\' train-vqgan' -l disc-num-layers -d 'Strided layers of the discriminator; patches are 34 x 34 pixels with 2, 70 x 70 with 3. Default 2.' -x
complete -c taming -n '__taming_may \'--disc-loss\' train-vqgan' -l disc-loss -d 'Adversarial loss. Default hinge.' -x -a 'hinge\\t vanilla\\t'
complete -c taming -n '__taming_may \'--disc-blur\' train-vqgan' -l disc-blur -d 'Blur the input of each strided layer, against aliasing.'
complete -c taming -n '__taming_may \'--nproc\' train-vqgan train-prior' -l nproc -d 'Processes on this machine that share each batch, each on its own GPU. Default 1.' -x
complete -c taming -n '__taming_may \'--dry-run\' train-vqgan train-prior sample tokenize reconstruct decode \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\'' -l dry-run -d 'Print what would be done, and write nothing.'
complete -c taming -n '__taming_may \'--device-name\' train-vqgan train-prior' -l device-name -d 'With --dry-run: estimate the time on another device: h200, h100, a100, l40s, l4, rtx5090, rtx4090, rtx3090.' -x
complete -c taming -n '__taming_may \'--weights\' train-vqgan sample \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'weights ls\' \'weights verify\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval memorization\' \'eval all\'' -l weights -d 'Pretrained weights: a file, or a folder of files.' -x -a '(__taming_files .pth .pt .safetensors)'
complete -c taming -n '__taming_may \'--offline\' train-vqgan sample \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'weights fetch\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval memorization\' \'eval all\'' -l offline -d 'Never download anything.'
complete -c taming -n '__taming_may \'--config\' train-vqgan train-prior sample tokenize reconstruct decode \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l config -d 'TOML or JSON file of settings.' -x -a '(__taming_files .toml .json)'
complete -c taming -n '__taming_may \'--max-pixels\' train-vqgan sample tokenize reconstruct \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l max-pixels -d 'Skip pictures with more pixels than this. Default 178956970.' -x
complete -c taming -n '__taming_may \'--json\' train-vqgan train-prior sample tokenize reconstruct decode import export \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' \'tokens verify\' \'tokens merge\' info report demo-data doctor guide \'presets ls\' \'presets show\' \'weights ls\' \'weights verify\' \'weights fetch\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l json -d 'Print the result as JSON.'
complete -c taming -n '__taming_may \'-q --quiet\' train-vqgan train-prior sample tokenize reconstruct decode import export \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' \'tokens verify\' \'tokens merge\' info report demo-data doctor guide \'presets ls\' \'presets show\' \'weights ls\' \'weights verify\' \'weights fetch\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -s q -l quiet -d 'Print only the resulting path or number.'
complete -c taming -n '__taming_may \'-v --verbose\' train-vqgan train-prior sample tokenize reconstruct decode import export \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' \'tokens verify\' \'tokens merge\' info report demo-data doctor guide \'presets ls\' \'presets show\' \'weights ls\' \'weights verify\' \'weights fetch\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -s v -l verbose -d 'Print all settings with their origins, and each choice made.'
complete -c taming -n '__taming_may \'--debug\' train-vqgan train-prior sample tokenize reconstruct decode import export \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' \'tokens verify\' \'tokens merge\' info report demo-data doctor guide \'presets ls\' \'presets show\' \'weights ls\' \'weights verify\' \'weights fetch\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l debug -d 'Print the traceback of an error.'
complete -c taming -n '__taming_may \'--codec\' train-prior decode \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval memorization\'' -l codec -d 'The codec, if it is not at the recorded path.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'\' train-prior' -l cond-ckpt -d 'A condition\'s codec, if it is not at the recorded path.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--batch-size\' train-prior' -l batch-size -d 'Windows per step. Default 16.' -x
complete -c taming -n '__taming_may \'--compile\' train-prior' -l compile -d 'Compile the transformer blocks (torch.compile): steps in bf16 are about 1.4 times as fast on a CPU, after a minute of preparation. Needs a C++ compiler.'
complete -c taming -n '__taming_may \'--fsdp\' train-prior' -l fsdp -d 'Shard weights, gradients and optimiser across the processes (FSDP2), for priors that do not fit on one GPU.'
complete -c taming -n '__taming_may \'--learning-rate\' train-prior' -l learning-rate -d 'Peak learning rate. Default 0.002.' -x
complete -c taming -n '__taming_may \'--betas\' train-prior' -l betas -d 'AdamW betas. Default 0.9,0.95.' -x
complete -c taming -n '__taming_may \'--weight-decay\' train-prior' -l weight-decay -d 'Weight decay of AdamW, on the weights of linear layers only. Default 0.05.' -x
complete -c taming -n '__taming_may \'--final-lr\' train-prior' -l final-lr -d 'Final learning rate as a fraction of the peak (cosine schedule). Default 0.05.' -x
complete -c taming -n '__taming_may \'--clip\' train-prior' -l clip -d 'Gradient norm above which gradients are clipped; 0: never. Default 1.' -x
complete -c taming -n '__taming_may \'--dropout\' train-prior' -l dropout -d 'Dropout on embeddings and block outputs, and with --arch published on attention weights. Default 0.1.' -x
complete -c taming -n '__taming_may \'--pkeep\' train-prior' -l pkeep -d 'Probability of keeping an input code; others are replaced by random codes. Targets stay. Default 1.' -x
complete -c taming -n '__taming_may \'--condition-dropout\' train-prior' -l condition-dropout -d 'Probability of dropping all conditions of a picture, and of dropping each one of several. Guidance needs a value above 0. Default 0.1.' -x
complete -c taming -n '__taming_may \'--cond\' train-prior' -l cond -d 'Conditions of the token files to train on; `none`: without conditions. Default: all of them.' -x -a '(__taming_list class image segmentation depth pose edges lowres coords none)'
complete -c taming -n '__taming_may \'--held\' train-prior' -l held -d 'Fraction of the pictures that is held out. Default 0.05.' -x
complete -c taming -n '__taming_may \'--val-windows\' train-prior' -l val-windows -d 'Held-out windows used in each validation. Default 512.' -x
complete -c taming -n '__taming_may \'--patience\' train-prior' -l patience -d 'Number of validations without improvement after which training stops; 0: never. Default 0.' -x
complete -c taming -n '__taming_may \'--samples\' train-prior' -l samples -d 'Pictures drawn at each validation; 0: none. Default 16.' -x
complete -c taming -n '__taming_may \'--precision\' train-prior' -l precision -d 'Precision of the network; weights and loss are in fp32. Default auto.' -x -a 'auto\\t fp32\\t bf16\\t'
complete -c taming -n '__taming_may \'--init\' train-prior' -l init -d 'Start from the weights and architecture of this prior.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--arch\' train-prior' -l arch -d 'any-order: groups of cells are drawn at once, in any order; modern: one cell after another, in raster order, with RMSNorm, SwiGLU, 2-D rotary positions and query/key norm; published: as modern, with learned positions, LayerNorm and GELU; pixelsnail: in raster order, causal convolutions with attention, pictures of one size. Default any-order. One of any-order, modern, published, pixelsnail.' -x -a 'any-order\\t modern\\t published\\t pixelsnail\\t'
complete -c taming -n '__taming_may \'--level\' train-prior' -l level -d 'With a codec of two levels of codes, the one to model: top, or bottom, which follows from the top one. Default single.' -x -a 'single\\t top\\t bottom\\t'
complete -c taming -n '__taming_may \'--n-layer\' train-prior' -l n-layer -d 'Transformer blocks, or blocks of --arch pixelsnail. Default 4.' -x
complete -c taming -n '__taming_may \'--n-head\' train-prior' -l n-head -d 'Attention heads. Default 4.' -x
complete -c taming -n '__taming_may \'--n-embd\' train-prior' -l n-embd -d 'Width of the network; a multiple of --n-head. Default 256.' -x
complete -c taming -n '__taming_may \'--window\' train-prior' -l window -d 'Context of the prior, in cells; reduced to the grid of the token files where that is smaller. Default 16x16.' -x
complete -c taming -n '__taming_may \'--reach\' train-prior' -l reach -d 'With --arch any-order: distance in cells at which cells see one another; the first ones are seen from afar. Default 10.' -x
complete -c taming -n '__taming_may \'--res-blocks\' train-prior' -l res-blocks -d 'With --arch pixelsnail: causal residual blocks before each attention. Default 4.' -x
complete -c taming -n '__taming_may \'--kernel\' train-prior' -l kernel -d 'With --arch pixelsnail: side of the causal kernels, an odd number. Default 5.' -x
complete -c taming -n '__taming_may \'-n\' sample' -s n -d 'Number of pictures. Default 1.' -x
complete -c taming -n '__taming_may \'--class\' sample' -l class -d 'Class to draw: its name, \'#N\' for class number N from 0, or N if classes have no names. Default: any class.' -x
complete -c taming -n '__taming_may \'--size\' sample' -l size -d 'Size of the pictures in pixels. Default: the size of the condition map, or the training size.' -x
complete -c taming -n '__taming_may \'\' sample' -l cond -d 'Condition map, or a folder with one for each picture; KIND=FILE if the prior has several kinds. people.json:NAME selects the keypoints of one picture.' -x -a '(__taming_keys image segmentation depth pose edges) (__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .npy .json)'
complete -c taming -n '__taming_may \'--complete\' sample' -l complete -d 'Complete this picture; a larger --size extends it.' -x -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp)'
complete -c taming -n '__taming_may \'--mask\' sample' -l mask -d 'Mask: white parts are drawn; `upper-half` keeps the upper half of the picture.' -x -a 'upper-half\\t (__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp)'
complete -c taming -n '__taming_may \'--redraw\' sample' -l redraw -d 'With --complete SAMPLE: redraw the white parts of a picture that sample drew; its other codes stay.' -x
complete -c taming -n '__taming_may \'--at\' sample' -l at -d 'Upper left corner of the picture within a larger --size. Default: centred.' -x
complete -c taming -n '__taming_may \'--ckpt\' sample tokenize reconstruct' -l ckpt -d 'Model file or run. Default: $TAMING_CKPT, else the newest run, else `builtin`.' -x -a 'builtin\\t (__taming_files .safetensors)'
complete -c taming -n '__taming_may \'-o --out\' sample' -s o -l out -d 'Folder to write. Default: the next number under runs/sample/.' -x -a '(__taming_files)'
complete -c taming -n '__taming_may \'--codec\' sample' -l codec -d 'Codec with a fine-tuned decoder, instead of the prior\'s own codec.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--above\' sample' -l above -d 'With a prior of the bottom level of codes: the prior of the top level.' -x -a '(__taming_files \'\')'
complete -c taming -n '__taming_may \'--class-map\' sample' -l class-map -d 'JSON that maps the prior\'s classes to the classifier\'s, if names differ.' -x -a '(__taming_files .json)'
complete -c taming -n '__taming_may \'--first\' sample' -l first -d 'Number of the first sample: --first 17 -n 1 draws sample 17 alone. Default 0.' -x
complete -c taming -n '__taming_may \'--tokens\' sample' -l tokens -d 'Also write the codes, as a token file.' -x -a '(__taming_files .h5)'
complete -c taming -n '__taming_may \'--npz\' sample' -l npz -d 'Also write the pictures as one array, in the ADM suite\'s format.' -x -a '(__taming_files .npz)'
complete -c taming -n '__taming_may \'--temperature\' sample' -l temperature -d 'Temperature of the logits: less variety below 1, more above 1. X:Y, with a prior for any order: from X in the first step to Y in the last. Default 1.' -x
complete -c taming -n '__taming_may \'--top-k\' sample' -l top-k -d 'Sample from the k most likely codes; 0: all. Default 0.' -x
complete -c taming -n '__taming_may \'--top-p\' sample' -l top-p -d 'Sample from the smallest set of codes with at least this total probability; 1: all. Default 1.' -x
complete -c taming -n '__taming_may \'--min-p\' sample' -l min-p -d 'Sample from codes at least this fraction as likely as the most likely one; 0: all. Default 0.' -x
complete -c taming -n '__taming_may \'--guidance\' sample' -l guidance -d 'Classifier-free guidance: unconditional + guidance x (conditional - unconditional); 1: off. X:Y as with --temperature. Default 1.' -x
complete -c taming -n '__taming_may \'--greedy\' sample' -l greedy -d 'Always choose the most likely code.'
complete -c taming -n '__taming_may \'--seed\' sample' -l seed -d 'Random seed. The pictures do not depend on the batch size. Default 0.' -x
complete -c taming -n '__taming_may \'--candidates\' sample' -l candidates -d 'With --complete: completions drawn per picture; the one that best fits the part below it is kept. Default 1.' -x
complete -c taming -n '__taming_may \'--keep\' sample' -l keep -d 'With --complete: `pixels` keeps the known pixels and matches the colours of the new ones to them; `codes` keeps the known codes and decodes the whole picture. Default pixels.' -x -a 'pixels\\t codes\\t'
complete -c taming -n '__taming_may \'--accept-rate\' sample' -l accept-rate -d 'Rejection sampling: draw n / rate pictures and keep the n in which --classifier finds the class with the highest probability; 1: keep all. Default 1.' -x
complete -c taming -n '__taming_may \'--classifier\' sample' -l classifier -d 'Classifier for --accept-rate: efficientnet-lite0 (no download), or one of torchvision\'s, such as resnet50. Default efficientnet-lite0.' -x -a 'efficientnet-lite0\\t resnet50\\t'
complete -c taming -n '__taming_may \'--stride\' sample' -l stride -d 'Columns that share a window: 1 is the paper\'s procedure, more is faster; 0: half the window. Default 0.' -x
complete -c taming -n '__taming_may \'--speculate\' sample' -l speculate -d 'With a raster prior: guess the next codes, and draw up to N codes of a window in one forward pass; N is 2 to 64. `auto` adapts N, `off` draws code by code. The pictures are the same, up to rounding. Default auto.' -x -a 'auto\\t off\\t'
complete -c taming -n '__taming_may \'--sample-steps\' sample' -l sample-steps -d 'With a prior for any order: forward passes per picture, one after the other; fewer are faster. Default 32.' -x
complete -c taming -n '__taming_may \'--batch-size\' sample' -l batch-size -d 'Windows computed at once; affects memory and speed, not the pictures. Default 16.' -x
complete -c taming -n '__taming_may \'--shard\' sample reconstruct decode \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\'' -l shard -d 'Process only every N-th picture, starting with the I-th.' -x
complete -c taming -n '__taming_may \'--device\' sample tokenize reconstruct decode \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l device -d 'auto, cpu, cuda, cuda:N or mps. Default auto.' -x -a 'auto\\t cpu\\t cuda\\t mps\\t'
complete -c taming -n '__taming_may \'--precision\' sample' -l precision -d 'auto: bf16 for priors with 1024 channels or more if the device supports it, else fp32. Default auto.' -x -a 'auto\\t fp32\\t bf16\\t fp16\\t'
complete -c taming -n '__taming_may \'--memory\' sample reconstruct decode \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l memory -d 'Memory for one picture; a picture that fits is decoded exactly. Default: half of the free memory.' -x
complete -c taming -n '__taming_may \'-o --out\' tokenize' -s o -l out -d 'Token file to write. Default: tokens.h5.' -x -a '(__taming_files .h5)'
complete -c taming -n '__taming_may \'--size\' tokenize' -l size -d 'Size of the pictures in pixels. Default: the codec\'s training size.' -x
complete -c taming -n '__taming_may \'--views\' tokenize' -l views -d 'Views of each picture: the centre crop, its mirror image, random crops. Default 1.' -x
complete -c taming -n '__taming_may \'\' tokenize' -l cond -d 'Also encode a condition: its kind, and the folder of its maps, named like the pictures. The kinds edges, lowres and coords need no folder; they are computed from the pictures. lowres:4 is the picture at a quarter of its size, for super-resolution by 4.' -x -a 'edges\\t lowres\\t coords\\t (__taming_keys image segmentation depth pose edges) (__taming_files_of_key)'
complete -c taming -n '__taming_may \'\' tokenize' -l cond-ckpt -d 'Codec of condition maps; its file records their kind. A prior\'s file gives those of its conditions.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--batch-size\' tokenize' -l batch-size -d 'Pictures per batch. Default 16.' -x
complete -c taming -n '__taming_may \'--shard\' tokenize' -l shard -d 'Write the I-th of N parts, tokens.I-of-N.h5, which `taming tokens merge` joins.' -x
complete -c taming -n '__taming_may \'--precision\' tokenize reconstruct decode \'eval nll\'' -l precision -d 'Floating-point precision of the networks. Default fp32.' -x -a 'auto\\t fp32\\t bf16\\t fp16\\t'
complete -c taming -n '__taming_may \'--memory\' tokenize' -l memory -d 'Memory for encoding one picture, recorded in the file. Default: 3, on every machine.' -x
complete -c taming -n '__taming_may \'--workers\' tokenize reconstruct \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l workers -d 'Threads that read pictures. Default 2.' -x
complete -c taming -n '__taming_may \'-o --out\' reconstruct \'annotate segmentation\' \'annotate depth\' \'annotate pose\' \'annotate edges\'' -s o -l out -d 'Folder to write, if there is no argument OUT.' -x -a '(__taming_files)'
complete -c taming -n '__taming_may \'--size\' reconstruct \'eval recon\' \'eval codebook\'' -l size -d 'Size of centre crops in pixels. Default: whole pictures.' -x
complete -c taming -n '__taming_may \'--pictures\' reconstruct' -l pictures -d 'Pictures of keypoint files that do not record picture sizes.' -x -a '(__taming_files \'\')'
complete -c taming -n '__taming_may \'--batch-size\' reconstruct decode' -l batch-size -d 'Pictures per batch. Default 8.' -x
complete -c taming -n '__taming_may \'-o --out\' import' -s o -l out -d 'Model file to write. Default: CHECKPOINT\'s name with .safetensors, in the current folder.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--config\' import' -l config -d 'The YAML file published with it; a prior needs it.' -x -a '(__taming_files .yaml .yml)'
complete -c taming -n '__taming_may \'--codec\' import' -l codec -d 'Codec of a prior that was published without it: a model file of taming.' -x -a '(__taming_files .safetensors)'
complete -c taming -n '__taming_may \'--allow-non-finite\' import' -l allow-non-finite -d 'Accept weights that are NaN or infinite.'
complete -c taming -n '__taming_may \'-o --out\' export' -s o -l out -d 'The .ckpt file to write; for diffusers, a folder.' -x -a '(__taming_files .ckpt)'
complete -c taming -n '__taming_may \'--to\' export' -l to -d 'The layout: that of the published code, or diffusers\' VQModel. Default compvis.' -x -a 'compvis\\t diffusers\\t'
complete -c taming -n '__taming_may \'--model\' \'annotate segmentation\'' -l model -d 'torchvision segmentation network: deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large, fcn_resnet50, fcn_resnet101 or lraspp_mobilenet_v3_large. Default deeplabv3_resnet50.' -x -a 'deeplabv3_resnet50\\t deeplabv3_resnet101\\t deeplabv3_mobilenet_v3_large\\t fcn_resnet50\\t fcn_resnet101\\t lraspp_mobilenet_v3_large\\t'
complete -c taming -n '__taming_may \'--model\' \'annotate depth\'' -l model -d 'transformers depth model in safetensors format: a folder, or a name on the Hugging Face hub. Default depth-anything/Depth-Anything-V2-Small-hf.' -x -a '(__taming_files)'
complete -c taming -n '__taming_may \'--score\' \'annotate pose\'' -l score -d 'Draw persons with a higher probability than this. Default 0.75.' -x
complete -c taming -n '__taming_may \'--joint-score\' \'annotate pose\'' -l joint-score -d 'Draw joints with a higher heatmap logit than this; a lower value includes hidden joints. Default 2.' -x
complete -c taming -n '__taming_may \'-o --out\' \'tokens merge\'' -s o -l out -d 'The token file to write.' -x -a '(__taming_files .h5)'
complete -c taming -n '__taming_may \'--config\' info' -l config -d 'The YAML file published with a checkpoint.' -x -a '(__taming_files .yaml .yml)'
complete -c taming -n '__taming_may \'-o --out\' report' -s o -l out -d 'The page to write. Default: report.html in the run folder; for several runs, in the current folder.' -x -a '(__taming_files)'
complete -c taming -n '__taming_may \'--by\' report' -l by -d 'Horizontal axis of the charts of several runs. Default: step, or images if batch sizes differ.' -x -a 'step\\t images\\t time\\t'
complete -c taming -n '__taming_may \'-n --count\' demo-data' -s n -l count -d 'Number of scenes. Default 200.' -x
complete -c taming -n '__taming_may \'--size\' demo-data' -l size -d 'Size of the pictures in pixels. Default 256x256.' -x
complete -c taming -n '__taming_may \'--seed\' demo-data' -l seed -d 'Seed of the scenes. Default 0.' -x
complete -c taming -n '__taming_may \'--kind\' demo-data' -l kind -d 'Draw only this kind.' -x -a 'landscape\\t figure\\t'
complete -c taming -n '__taming_may \'--workers\' demo-data' -l workers -d 'Processes that draw. Default: depends on the number of scenes.' -x
complete -c taming -n '__taming_may \'--all\' \'weights ls\'' -l all -d 'Include torchvision\'s other networks.'
complete -c taming -n '__taming_may \'--all\' \'weights fetch\'' -l all -d 'Everything that `taming weights ls` lists.'
complete -c taming -n '__taming_may \'-o --out\' \'weights fetch\'' -s o -l out -d 'Folder to write, such as $TAMING_WEIGHTS_DIR. Default: torch\'s cache.' -x -a '(__taming_files)'
complete -c taming -n '__taming_may \'-o --out\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -s o -l out -d 'Also write the result and its pictures to this folder.' -x -a '(__taming_files)'
complete -c taming -n '__taming_may \'--batch-size\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval recon\' \'eval codebook\' \'eval nll\' \'eval memorization\' \'eval all\'' -l batch-size -d 'Pictures per batch. Default 32.' -x
complete -c taming -n '__taming_may \'--features\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval memorization\' \'eval all\'' -l features -d 'Feature network. Only scores with inception-v3-compat are called FID, IS or KID. efficientnet-lite0 needs no download. Default inception-v3-compat. One of inception-v3-compat, vgg16, dinov2, efficientnet-lite0.' -x -a 'inception-v3-compat\\t vgg16\\t dinov2\\t efficientnet-lite0\\t'
complete -c taming -n '__taming_may \'--resize\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval memorization\' \'eval all\'' -l resize -d 'Resizing to the network\'s input: tf1 (bilinear, as for the published FID) or clean (bicubic, clean-fid). Default tf1.' -x -a 'tf1\\t clean\\t'
complete -c taming -n '__taming_may \'--size\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval memorization\' \'eval all\'' -l size -d 'First centre-crop and resize all pictures to this size. Default: keep their sizes.' -x
complete -c taming -n '__taming_may \'--cache --no-cache\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval memorization\' \'eval all\'' -l cache -d 'Cache the statistics of reference pictures. On by default.'
complete -c taming -n '__taming_may \'--cache --no-cache\' \'eval fid\' \'eval is\' \'eval kid\' \'eval prc\' \'eval rfid\' \'eval memorization\' \'eval all\'' -l no-cache -d 'Turn --cache off.'
complete -c taming -n '__taming_may \'--splits\' \'eval is\'' -l splits -d 'Number of splits whose scores are averaged. Default 10.' -x
complete -c taming -n '__taming_may \'--seed\' \'eval is\'' -l seed -d 'Random seed of the assignment of pictures to splits. Default 2020.' -x
complete -c taming -n '__taming_may \'--subsets\' \'eval kid\'' -l subsets -d 'Number of random subsets whose distances are averaged. Default 100.' -x
complete -c taming -n '__taming_may \'--subset-size\' \'eval kid\'' -l subset-size -d 'Pictures of each side in a subset. Default 1000.' -x
complete -c taming -n '__taming_may \'--seed\' \'eval kid\'' -l seed -d 'Random seed of the subsets. Default 2020.' -x
complete -c taming -n '__taming_may \'--neighbours\' \'eval prc\'' -l neighbours -d 'k: each feature\'s sphere reaches its k-th nearest neighbour. Default 3.' -x
complete -c taming -n '__taming_may \'--perceptual\' \'eval recon\' \'eval all\'' -l perceptual -d 'Perceptual network: lpips-vgg, lpips-alex, efficientnet-lite0 or none. Default efficientnet-lite0.' -x -a 'lpips-vgg\\t lpips-alex\\t lpips-squeeze\\t efficientnet-lite0\\t none\\t'
complete -c taming -n '__taming_may \'--stride\' \'eval nll\'' -l stride -d 'Columns that share a window; 1 is the published procedure. Default 1.' -x
complete -c taming -n '__taming_may \'--order\' \'eval nll\'' -l order -d 'With a prior for any order: that of sampling, or raster order. Default plan.' -x -a 'plan\\t raster\\t'
complete -c taming -n '__taming_may \'--sample-steps\' \'eval nll\'' -l sample-steps -d 'With a prior for any order: read cells in the groups of so many steps; 0: one cell at a time. Default 0.' -x
complete -c taming -n '__taming_may \'--held-out\' \'eval memorization\'' -l held-out -d 'Pictures that were not trained on. Default: those that the prior held out.' -x -a '(__taming_files .avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp .zip .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .txt)'
