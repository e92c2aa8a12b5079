# bash completion for sluice

# Mount points of sluice that begin with $1.
_sluice_mounts() {
    local point kind
    while read -r _ point kind _; do
        [[ $kind == fuse.sluice && $point == "$1"* ]] && printf '%b\n' "$point"
    done < /proc/self/mounts
}

_sluice() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command='' word options
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
        index | inspect | profile | mount | umount | status | cache | convert | fetch)
            command=$word
            break
            ;;
        esac
    done
    case $previous in
    --output | --cache | --hosts-dir | --from | --record | --address)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --network)
        mapfile -t COMPREPLY < <(compgen -W 'host none' -- "$current")
        return
        ;;
    --platform)
        mapfile -t COMPREPLY < <(compgen -W 'linux/amd64 linux/arm64' -- "$current")
        return
        ;;
    --front)
        mapfile -t COMPREPLY < <(compgen -W 'auto erofs fuse' -- "$current")
        return
        ;;
    --fill)
        mapfile -t COMPREPLY < <(compgen -W 'off idle now' -- "$current")
        return
        ;;
    --threads | --index | --annotate | --read-timeout | --cache-size | --cache-reserve | --keep | \
        --timeout | --prefetch-limit | --level | --fill-rate | --namespace)
        return
        ;;
    esac
    case $command in
    '') options='index inspect profile mount umount status cache convert fetch --verbose --version --help' ;;
    index)
        options='--platform --output --annotate --threads --force --plain-http --hosts-dir
            --json --verbose --help'
        ;;
    inspect) options='--platform --plain-http --hosts-dir --profile --json --verbose --help' ;;
    profile)
        options='--timeout --network --output --from --merge --annotate --cache --platform
            --plain-http --hosts-dir --json --verbose --help'
        ;;
    mount)
        options='--foreground --cache --cache-size --cache-reserve --front --index --trust
            --read-timeout --platform --suid --dev --no-profile --prefetch-limit --record
            --fill --fill-rate --force --plain-http --hosts-dir --verbose --help'
        ;;
    umount) options='--lazy --verbose --help' ;;
    status) options='--json --verbose --help' ;;
    cache) options='--cache --keep --all --json --verbose --help' ;;
    convert)
        options='--platform --level --profile --no-profile --threads --plain-http --hosts-dir --json
            --verbose --help'
        ;;
    fetch)
        options='--namespace --address --platform --plain-http --hosts-dir --json --verbose --help'
        ;;
    esac
    if [[ -z $command || $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
        return
    fi
    case $command in
    mount) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    cache) mapfile -t COMPREPLY < <(compgen -W 'ls prune verify' -- "$current") ;;
    umount | status) mapfile -t COMPREPLY < <(_sluice_mounts "$current") ;;
    esac
}

complete -o filenames -F _sluice sluice
