function __complete_edgectl
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    /usr/bin/edgectl
end
complete -f -c edgectl -a "(__complete_edgectl)"
