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
