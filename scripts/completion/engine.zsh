# Completes a group of commands: $1 is the function for it, to whose name theirs are added; then come `name:help` of each,
# and behind -- the specifications of its own flags.
_taming_group() {
    local curcontext=$curcontext own=$1 context state state_descr line ret=1
    local -a commands
    typeset -A opt_args
    commands=("${(@)argv[2,(i)--]}")
    shift $(( $#commands + 1 ))
    commands[-1]=()
    _arguments -C -s -S "$@" '1: :->command' '*:: :->argument' && ret=0
    if [[ $state == command ]]; then
        _describe -t commands command commands && ret=0
    elif [[ $state == argument && -n $functions[$own-$words[1]] ]]; then
        curcontext=${curcontext%:*:*}:${own#_}-$words[1]:
        $own-$words[1] && ret=0
    fi
    return ret
}

# Completes what may be `key=file`, of the keys $1, or one of the words $2, or where $3 is not empty a file alone; the rest
# completes the file.
_taming_mixed() {
    local expl ret=1
    if [[ -n $1 ]] && compset -P 1 '*='; then
        "${(@)argv[4,-1]}"
        return
    fi
    [[ -n $1 ]] && _wanted keys expl key compadd -q -S = -- ${=1} && ret=0
    [[ -n $2 ]] && _wanted words expl word compadd -- ${=2} && ret=0
    [[ -n $3 ]] && "${(@)argv[4,-1]}" && ret=0
    return ret
}

if [[ $funcstack[1] == _taming ]]; then
    _taming "$@"
else
    compdef _taming taming
fi
