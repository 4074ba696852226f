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
