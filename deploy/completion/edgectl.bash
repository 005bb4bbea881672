complete -C /usr/bin/edgectl edgectl
