# fish completion for sxp
complete -c sxp -s p -d 'print values for people to read'
complete -c sxp -s w -x -d 'bytes a line at most'
complete -c sxp -o dialect -x -a 'xend c' -d 'syntax to read'
complete -c sxp -l version -d 'print the version'
